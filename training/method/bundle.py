"""The bundle: all that is trained, between the networks and the published keys."""

from __future__ import annotations

from pathlib import Path

from ...models.weights import CONTROL, UNET, StateDict, WeightsError, read_weights
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
    """Put a bundle's weights into the networks. Raises WeightsError where they do not fit."""
    file = read_weights(path)
    what = str(path)
    decoder = {key[len(UNET) :]: value for key, value in file.decoder().items()}
    try:
        nets.controlnet.load_state_dict(control_to_diffusers(file.control(), shape, what))
        unet = unet_to_diffusers(decoder, shape, what)
        nets.unet.load_state_dict({**nets.unet.state_dict(), **unet})
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit the base model. {error}") from error
