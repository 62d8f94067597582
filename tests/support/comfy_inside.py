"""Fixtures for tests that call the nodes' code inside a real ComfyUI, without its server."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from siamese_diffusion.models.kinds import Kind
from siamese_diffusion.models.weights import StateDict
from siamese_diffusion.tools.comfy_host import HostError, import_comfyui

from support.needs import Need
from support.seeded_weights import load_model, made_up_bundle, seeded, unet_shapes, weight_file


@pytest.fixture(scope="session")
def pack() -> SimpleNamespace:
    """The modules of nodes/, imported with ComfyUI's own modules around them, on the CPU."""
    try:
        import_comfyui()
    except HostError:
        Need.COMFYUI.skip()
    from siamese_diffusion.models import shapes
    from siamese_diffusion.nodes import (
        conditioning,
        conditioning_nodes,
        control,
        decoder,
        folders,
        hints,
        loader_nodes,
        pair_folder,
        pair_scores,
        pictures,
        sampling,
        synthesize,
    )

    modules = (
        *(conditioning, conditioning_nodes, control, decoder, folders, hints, loader_nodes),
        *(pair_folder, pair_scores, pictures, sampling, shapes, synthesize),
    )
    return SimpleNamespace(**{module.__name__.rsplit(".", 1)[1]: module for module in modules})


@pytest.fixture
def inference() -> Iterator[None]:
    """Without gradients, as ComfyUI runs every node, and on one thread.

    The models are too small for more threads, which on a busy machine wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(pack: SimpleNamespace) -> StateDict:
    """A small Stable Diffusion 1.5 without text encoder and autoencoder."""
    return {key: seeded(key, shape) for key, shape in unet_shapes(channel_mult=(1,)).items()}


@pytest.fixture(scope="session")
def bundle(base: StateDict) -> StateDict:
    return made_up_bundle(base)


@pytest.fixture
def model(pack: SimpleNamespace, base: StateDict) -> Any:
    return load_model(pack, base)


@pytest.fixture
def control(pack: SimpleNamespace, bundle: StateDict) -> Any:
    return pack.control.load_control(weight_file(bundle, Kind.BUNDLE))
