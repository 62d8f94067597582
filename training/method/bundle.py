"""The bundle: all that is trained, between the networks and the published keys."""

from __future__ import annotations

from pathlib import Path

from ...models.kinds import CONTROL, DECODER, UNET, Kind
from ...models.weights import StateDict, WeightFile, check_keys, read_weights
from .ldm_keys import UNetShape, control_to_ldm, unet_to_ldm
from .low_rank import factor_names
from .networks import SiameseNetworks

DECODER_NAMES = ("up_blocks.", "conv_norm_out.", "conv_out.")


def bundle_tensors(nets: SiameseNetworks, shape: UNetShape) -> StateDict:
    """All that is trained, under the published keys; the networks' own tensors, not copies.

    Of low-rank networks the factors, as models/low_rank.py names them.
    """
    unet = factor_names(nets.unet)
    decoder = {k: v for k, v in unet.items() if k.startswith(DECODER_NAMES)}
    control = control_to_ldm(factor_names(nets.controlnet), shape)
    return {
        **{CONTROL + key: value for key, value in control.items()},
        **{UNET + key: value for key, value in unet_to_ldm(decoder, shape).items()},
    }


def load_bundle(path: Path, nets: SiameseNetworks, shape: UNetShape) -> None:
    """Put a bundle's weights into the networks, every tensor that is trained.

    Raises WeightsError where one is missing, not expected or of another shape.
    """
    load_trained(read_weights(path, expect=[Kind.BUNDLE, Kind.LOW_RANK]), nets, shape)


def load_trained(file: WeightFile, nets: SiameseNetworks, shape: UNetShape) -> None:
    """As `load_bundle`, of a bundle or merged checkpoint that has been read."""
    tensors = file.tensors
    if file.kind is Kind.MERGED:
        own = (CONTROL, *DECODER)
        tensors = {key: value for key, value in tensors.items() if key.startswith(own)}
    trained = bundle_tensors(nets, shape)
    check_keys(tensors, trained, str(file.path))
    for key, tensor in trained.items():
        tensor.copy_(tensors[key])
