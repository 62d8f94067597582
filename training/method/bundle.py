"""The bundle: all that is trained, between the networks and the published keys."""

from __future__ import annotations

from pathlib import Path

from ...models.weights import (
    CONTROL,
    DECODER,
    UNET,
    Kind,
    StateDict,
    WeightFile,
    check_keys,
    read_weights,
    without_prefix,
)
from .ldm_keys import (
    UNetShape,
    control_to_diffusers,
    control_to_ldm,
    unet_to_diffusers,
    unet_to_ldm,
)
from .networks import SiameseNetworks

DECODER_NAMES = ("up_blocks.", "conv_norm_out.", "conv_out.")


def bundle_tensors(nets: SiameseNetworks, shape: UNetShape) -> StateDict:
    """All that is trained, under the published keys."""
    decoder = {k: v for k, v in nets.unet.state_dict().items() if k.startswith(DECODER_NAMES)}
    control = control_to_ldm(nets.controlnet.state_dict(), shape)
    return {
        **{CONTROL + key: value for key, value in control.items()},
        **{UNET + key: value for key, value in unet_to_ldm(decoder, shape).items()},
    }


def load_bundle(path: Path, nets: SiameseNetworks, shape: UNetShape) -> None:
    """Put a bundle's weights into the networks, every tensor that is trained.

    Raises WeightsError where one is missing, not expected or of another shape.
    """
    load_trained(read_weights(path, expect=[Kind.BUNDLE]), nets, shape)


def load_trained(file: WeightFile, nets: SiameseNetworks, shape: UNetShape) -> None:
    """As `load_bundle`, of a bundle or merged checkpoint that has been read."""
    path, own = str(file.path), (CONTROL, *DECODER)
    trained = {key: value for key, value in file.tensors.items() if key.startswith(own)}
    found = file.tensors if file.kind is Kind.BUNDLE else trained
    check_keys(found, bundle_tensors(nets, shape), path)
    decoder = without_prefix(file.decoder(), UNET)
    nets.controlnet.load_state_dict(control_to_diffusers(file.control(), shape, path))
    unet = unet_to_diffusers(decoder, shape, path)
    nets.unet.load_state_dict({**nets.unet.state_dict(), **unet})
