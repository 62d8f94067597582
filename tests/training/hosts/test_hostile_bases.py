"""Base checkpoints whose tensors have odd dimensions: named, before memory is taken for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from siamese_diffusion.models.kinds import UNET
from siamese_diffusion.models.weights import StateDict, WeightsError, read_weights
from siamese_diffusion.training.hosts.single_file import (
    CLIP,
    CLIP_EMBEDDING,
    OPEN_CLIP,
    OPEN_CLIP_EMBEDDING,
    load_autoencoder,
    load_text_encoder,
    load_unet,
)
from support.tiny_base import SD2, open_clip, write_tiny_base

pytestmark = pytest.mark.slow  # each loads a base model

LAYER = f"{UNET}input_blocks.1.0.in_layers.2.weight"
TEXT = f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
PROJECTION = f"{UNET}middle_block.1.proj_in.weight"
TAESD = "first_stage_model.taesd_decoder."
BLOCK = f"{OPEN_CLIP}transformer.resblocks.0."


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> StateDict:
    return read_weights(write_tiny_base(tmp_path_factory.mktemp("base") / "a.safetensors")).tensors


@pytest.fixture(scope="module")
def second() -> StateDict:
    """The text encoder of version 2.x."""
    return open_clip()


def ones(*shape: int) -> torch.Tensor:
    """As large as asked for, and one value in memory."""
    return torch.ones(()).expand(shape)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (LAYER, ones()), (LAYER, ones(0, 32, 3, 3)), (LAYER, ones(7, 32, 3, 3)),
        (LAYER, ones(1 << 20, 32, 3, 3)), (LAYER, ones(1 << 40, 1)), (LAYER, None),
        (TEXT, ones()), (TEXT, ones(64)), (TEXT, ones(64, 0)), (TEXT, ones(64, 1 << 30)),
        (TEXT, None),
        (PROJECTION, ones()), (PROJECTION, ones(64, 64)), (PROJECTION, ones(64, 64, 1, 1, 1)),
        (f"{UNET}input_blocks.1.1.norm.weight", None),
        (f"{UNET}input_blocks.1.0.op.weight", ones(1)),
        (f"{UNET}input_blocks.2.0.op.weight", ones(1)),
        (f"{UNET}input_blocks.99.0.in_layers.2.weight", ones(1)),
        (f"{UNET}out.2.weight", None), (f"{UNET}out.2.weight", ones(4)), (f"{UNET}", ones(1)),
        (f"{UNET}\x1b[2J", ones(1)), (f"{UNET}{'n' * 100_000}", ones(1)),
    ],
)  # fmt: skip
def test_a_unet(tensors: StateDict, key: str, value: torch.Tensor | None) -> None:
    refuse(lambda changed: load_unet(changed, "a.ckpt"), tensors, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (CLIP_EMBEDDING, ones()), (CLIP_EMBEDDING, ones(49408)), (CLIP_EMBEDDING, ones(0, 768)),
        (CLIP_EMBEDDING, ones(1 << 40, 768)), (CLIP_EMBEDDING, ones(49408, 1 << 30)),
        (CLIP_EMBEDDING, ones(49408, 1024)), (CLIP_EMBEDDING, ones(100, 768)),
        (f"{CLIP}text_model.encoder.layers.0.mlp.fc1.bias", None),
        (f"{CLIP}text_model.encoder.layers.0.mlp.fc1.bias", ones()),
        (f"{CLIP}text_model.encoder.layers.0.mlp.fc1.bias", ones(1 << 40)),
        (f"{CLIP}text_model.embeddings.position_embedding.weight", ones(78, 768)),
        (f"{CLIP}text_model.final_layer_norm.bias", None), (f"{CLIP}evil", ones(1)),
    ],
)  # fmt: skip
def test_a_text_encoder(tensors: StateDict, key: str, value: torch.Tensor | None) -> None:
    refuse(lambda changed: load_text_encoder(changed, 768, None, "a.ckpt"), tensors, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (OPEN_CLIP_EMBEDDING, ones()), (OPEN_CLIP_EMBEDDING, ones(49408, 1 << 30)),
        (OPEN_CLIP_EMBEDDING, ones(100, 1024)), (f"{BLOCK}attn.in_proj_weight", ones()),
        (f"{BLOCK}attn.in_proj_weight", ones(3)), (f"{BLOCK}attn.in_proj_bias", ones(1, 1, 1)),
        (f"{BLOCK}mlp.c_fc.bias", None), (f"{BLOCK}mlp.c_fc.bias", ones(1 << 40)),
        (f"{OPEN_CLIP}text_projection", ones()), (f"{OPEN_CLIP}transformer.evil", ones(1)),
    ],
)  # fmt: skip
def test_the_text_encoder_of_version_2(
    second: StateDict, key: str, value: torch.Tensor | None
) -> None:
    width = SD2.context_dim
    refuse(lambda changed: load_text_encoder(changed, width, None, "a.ckpt"), second, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{TAESD}1.weight", ones()), (f"{TAESD}1.weight", ones(1 << 40)),
        (f"{TAESD}x.weight", ones(1)),
        (f"{TAESD}\u0663.weight", ones(1)), (f"{TAESD}", ones(1)), (f"{TAESD}1.weight", None),
        ("first_stage_model.taesd_encoder.0.weight", None),
    ],
)  # fmt: skip
def test_a_small_autoencoder(tensors: StateDict, key: str, value: torch.Tensor | None) -> None:
    refuse(lambda changed: load_autoencoder(changed, "a.ckpt"), tensors, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder.mid.attn_1.q.weight", ones()), ("decoder.up.x.block", ones(1 << 40)),
    ],
)  # fmt: skip
def test_an_autoencoder(key: str, value: torch.Tensor) -> None:
    refuse(
        lambda changed: load_autoencoder(changed, "a.ckpt"), {}, {f"first_stage_model.{key}": value}
    )


def refuse(
    load: Callable[[StateDict], object], tensors: StateDict, changed: dict[str, torch.Tensor | None]
) -> None:
    """None leaves a tensor out."""
    given = {key: value for key, value in {**tensors, **changed}.items() if value is not None}
    with pytest.raises(WeightsError, match=r"^a\.ckpt: ") as error:
        load(given)
    message = str(error.value)
    assert message.isprintable() and len(message) < 2000


def test_what_is_whole_is_loaded(tensors: StateDict, second: StateDict) -> None:
    assert load_unet(tensors, "a.ckpt")[1].context_dim == 768
    assert load_text_encoder(tensors, 768, None, "a.ckpt")
    assert load_autoencoder(tensors, "a.ckpt")
    assert load_text_encoder(second, 1024, None, "a.ckpt")
