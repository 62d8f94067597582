"""The workflow that people start with, in API form, with other values in its nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .comfy_host import ROOT

WORKFLOW = "1_mask_to_image"
WORKFLOW_API = ROOT / "workflows" / "api" / f"{WORKFLOW}.json"

Prompt = dict[str, dict[str, Any]]


def read_prompt() -> Prompt:
    """The workflow's API form, as it is shipped."""
    prompt: Prompt = json.loads(WORKFLOW_API.read_text("utf-8"))
    return prompt


def patch_prompt(prompt: Prompt, values: dict[str, dict[str, Any]]) -> Prompt:
    """Set inputs by node class. Raises ValueError for a class or input that the prompt lacks."""
    for class_type, wanted in values.items():
        for inputs in find_inputs(prompt, class_type, *wanted):
            inputs.update(wanted)
    return prompt


def find_inputs(prompt: Prompt, class_type: str, *names: str) -> list[dict[str, Any]]:
    """Inputs of each node of a class. Raises ValueError without a node or one of the inputs."""
    found = [node["inputs"] for node in prompt.values() if node["class_type"] == class_type]
    if not found:
        raise ValueError(f"{WORKFLOW_API}: has no node {class_type}.")
    for inputs in found:
        if missing := set(names) - set(inputs):
            raise ValueError(f"{WORKFLOW_API}: {class_type} has no input {sorted(missing)}.")
    return found


def link_names(prompt: Prompt, files: dict[tuple[str, str], Path]) -> None:
    """Give files the names that the workflow has for them, as links beside them.

    files: by class and input of a node. The page then runs the workflow as it is.
    """
    for (class_type, name), file in files.items():
        for inputs in find_inputs(prompt, class_type, name):
            link = file.with_name(inputs[name])
            link.unlink(missing_ok=True)
            link.symlink_to(file.name)
