"""Waiting for what happens, instead of for a time in which it should have happened."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from siamese_diffusion.tools.comfy_host import ComfyHost

from support.processes import DEADLINE


def queue_until(host: ComfyHost, prompt: dict[str, Any], event: str, node_id: str) -> str:
    """Queue the prompt and return its id once the server tells of that event of that node.

    "executing": the node has begun; "progress": it has done a step.
    """

    async def told() -> str:
        url = f"{host.url}/ws?clientId=tests"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            await socket.receive()  # the state before
            prompt_id = await asyncio.to_thread(host.queue, prompt, "tests")
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    told = json.loads(message.data)
                    if told["type"] == event and told["data"]["node"] == node_id:
                        return prompt_id
        raise AssertionError("the server closed the connection")

    return asyncio.run(asyncio.wait_for(told(), DEADLINE))
