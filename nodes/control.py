"""The Siamese ControlNet as ComfyUI's own ControlNet, with the Dense Hint Input (DHI) for hints.

Memory management, chaining, strength, start and end are ComfyUI's. What differs: the DHI does not
depend on the timestep, so its output is computed once per mask and run and then reused each step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional

from ..models.dhi import DOWNSCALE, DenseHintInput
from ..models.kinds import DHI_KEY
from ..models.metadata import read_metadata, read_recipe
from ..models.recipe import Recipe
from ..models.weights import StateDict, WeightFile, WeightsError, check_keys

ENCODING_PIXELS = 8 * 512 * 512  # of hints that are encoded at a time
ENCODING_VALUES = 128  # alive at once for each pixel of them: four times the 32 channels of layer 2


class HintBlock(DenseHintInput):
    """The DHI as a ControlNet's `input_hint_block`.

    ComfyUI calls it at each step; it then returns its input, the features that `encode` has
    computed once for the run.
    """

    def encode(self, hint: Tensor) -> Tensor:
        """Hint (B, C, H, W) in [0, 1] -> features (B, 320, H/8, W/8)."""
        return super().forward(hint)

    def forward(self, features: Tensor, *_timestep_and_context: Any) -> Tensor:
        return features


class SiameseNetwork(comfy.cldm.cldm.ControlNet):
    """ComfyUI's ControlNet network with the DHI as its hint block."""

    def __init__(self, hint_channels: int, recipe: Recipe, **config: Any) -> None:
        super().__init__(hint_channels=hint_channels, **config)
        self.recipe = recipe
        self.mask_classes: Mapping[str, str] = {}
        self.context_dim: int = config["context_dim"]
        self.input_hint_block = HintBlock(
            hint_channels,
            config["model_channels"],
            config["operations"],
            dtype=config["dtype"],
            device=config["device"],
        )

    def forward(
        self,
        x: Tensor,
        hint: Tensor,
        timesteps: Tensor,
        context: Tensor,
        features: Tensor,
        **others: Any,
    ) -> Any:
        """ComfyUI's control of latents x (B, 4, h, w).

        `features`, (B, 320, h, w) or (1, 320, h, w), are the encoded hint; `hint` is not used.
        """
        return super().forward(x, features, timesteps, context, **others)


class EncodedMasks:
    """Features of masks by name, for runs that sample a mask many times: each is encoded once.

    names: of the hints of the next run, in their order; hints of one name are equal. Kept are the
    features of the last run's masks.
    """

    def __init__(self) -> None:
        self.names: list[Hashable] = []
        self._kept: dict[Hashable, Tensor] = {}

    def features(self, hints: int, encode: Callable[[list[int]], Tensor]) -> Tensor:
        """(hints, 320, h, w); `encode` encodes the hints with these numbers."""
        names = self.names
        if len(names) != hints:
            raise ValueError(f"{len(names)} names for {hints} masks: give each mask its name.")
        new = [
            n for n, name in enumerate(names) if names.index(name) == n and name not in self._kept
        ]
        found = dict(zip((names[n] for n in new), encode(new) if new else (), strict=True))
        every = {**self._kept, **found}
        self._kept = {name: every[name] for name in names}
        return torch.stack([self._kept[name] for name in names])


class SiameseControl(comfy.controlnet.ControlNet):
    """A Siamese ControlNet with a hint; each copy has its own hint and hint features.

    image_channels: how many channels of the hint, the first ones, hold an image, which may be
    smoothed when it is resized; the others hold a mask, which may not.
    encoded: keeps the features for later runs; None: they are encoded anew in each.
    """

    def __init__(self, network: SiameseNetwork | None, **settings: Any) -> None:
        self.encoded: EncodedMasks | None = None
        # The parent resizes a hint that the network then ignores: this keeps it small.
        super().__init__(network, compression_ratio=1, **settings)
        self.image_channels = 0
        self._features: dict[Any, Tensor] = {}

    @property
    def hint_channels(self) -> int:
        return self.control_model.input_hint_block.hint_channels

    @property
    def recipe(self) -> Recipe:
        return self.control_model.recipe

    @property
    def mask_classes(self) -> Mapping[str, str]:
        """What a mask's values mean, of the weights' metadata; "#rrggbb" for palette masks."""
        return self.control_model.mask_classes

    def inference_memory_requirements(self, dtype: torch.dtype) -> float:
        """Bytes beyond the weights that ComfyUI must keep free: those of encoding the hints."""
        others: float = super().inference_memory_requirements(dtype)
        if self.cond_hint_original is None:
            return others
        hints, _, height, width = self.cond_hint_original.shape
        at_once = min(hints, _at_once(height * width))
        size = comfy.model_management.dtype_size(self.manual_cast_dtype or self.control_model.dtype)
        return others + at_once * height * width * ENCODING_VALUES * size

    def copy(self) -> SiameseControl:
        other = SiameseControl(
            None, load_device=self.load_device, manual_cast_dtype=self.manual_cast_dtype
        )
        other.control_model = self.control_model
        other.control_model_wrapped = self.control_model_wrapped
        other.image_channels = self.image_channels
        other.encoded = self.encoded
        self.copy_to(other)
        return other

    def set_cond_hint(self, *args: Any, **kwargs: Any) -> Any:
        self._features.clear()
        return super().set_cond_hint(*args, **kwargs)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        # ComfyUI skips cleanup() after an interrupted run.
        self._features.clear()
        self._check_text_width(model)
        super().pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        self._features.clear()
        super().cleanup()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, transformer_options: Any
    ) -> Any:
        """The control for one call: `batched_number` conditionings of the same latents.

        Raises ValueError unless there is one mask for all latents, or one for each.
        """
        self.set_extra_arg("features", self._features_for(x_noisy, batched_number))
        try:
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.extra_args.pop("features")  # copies take over what is in there

    def _features_for(self, x_noisy: Tensor, batched_number: int) -> Tensor:
        """Hint features (B, 320, h, w) in the order of `x_noisy`'s batch, or (1, 320, h, w)."""
        masks = self.cond_hint_original.shape[0]
        latents = x_noisy.shape[0] // batched_number
        if masks not in (1, latents):
            raise ValueError(
                f"{masks} masks for {latents} latents: give one mask for all latents, or one for "
                f"each. Set the latent's batch size to {masks}, or pass a single mask."
            )
        key = (x_noisy.shape[-2:], x_noisy.device)
        if key not in self._features:
            self._features[key] = self._encode(x_noisy)
        features = self._features[key]
        return (
            features if masks == 1 else repeat(features, "b c h w -> (n b) c h w", n=batched_number)
        )

    def _encode(self, x_noisy: Tensor) -> Tensor:
        """Encode the hints at 8 times the latents' size, some of them at a time."""
        size = tuple(DOWNSCALE * size for size in x_noisy.shape[-2:])

        def encode(numbers: list[int]) -> Tensor:
            hints = self.cond_hint_original[numbers]
            parts = [
                self.control_model.input_hint_block.encode(self._resized(part, size, x_noisy))
                for part in hints.split(_at_once(size[0] * size[1]))
            ]
            return torch.cat(parts)

        count = self.cond_hint_original.shape[0]
        if self.encoded is None:
            return encode([*range(count)])
        return self.encoded.features(count, encode).to(x_noisy.device)

    def _resized(self, hints: Tensor, size: tuple[int, ...], x_noisy: Tensor) -> Tensor:
        """Hints at (height, width), masks by nearest neighbour; for the device of `x_noisy`."""
        image, mask = hints[:, : self.image_channels], hints[:, self.image_channels :]
        parts = []
        if image.shape[1]:
            # As training resizes images: linear, averaging when they shrink.
            parts.append(functional.interpolate(image, size, mode="bilinear", antialias=True))
        if mask.shape[1]:
            parts.append(functional.interpolate(mask, size, mode="nearest-exact"))
        dtype = self.manual_cast_dtype or self.control_model.dtype
        return torch.cat(parts, dim=1).to(x_noisy.device, dtype)

    def _check_text_width(self, model: Any) -> None:
        """Raise ValueError for a MODEL whose text embeddings have another width, such as SDXL."""
        expected = self.control_model.context_dim
        found = model.model_config.unet_config.get("context_dim")
        if found != expected:
            raise ValueError(
                f"This Siamese ControlNet was made for a model with text features of width "
                f"{expected}; the connected MODEL has {found} (768: SD 1.x, 1024: SD 2.x, 2048: "
                "SDXL). Use the base checkpoint that it was trained on."
            )


def _at_once(pixels: int) -> int:
    """How many hints of so many pixels are encoded at a time."""
    return max(1, ENCODING_PIXELS // pixels)


def load_control(weights: WeightFile) -> SiameseControl:
    """Build the ControlNet of a weight file; every tensor must be used.

    Raises WeightsError for missing or unexpected keys, or metadata that contradicts the weights.
    """
    state_dict = weights.control()
    channels = state_dict[DHI_KEY].shape[1]
    recipe = read_recipe(weights)
    metadata = read_metadata(weights.metadata, str(weights.path))
    load_device = comfy.model_management.get_torch_device()
    config = _network_config(weights, state_dict)
    cast_dtype = comfy.model_management.unet_manual_cast(config["dtype"], load_device)
    operations = comfy.ops.pick_operations(config["dtype"], cast_dtype)
    network = SiameseNetwork(channels, recipe, operations=operations, **config)
    try:
        network.load_state_dict(state_dict, strict=False)
    finally:
        # Afterwards: newer versions of ComfyUI make weights only as they are loaded.
        check_keys(state_dict, network.state_dict(), f"{weights.path}: ControlNet")
    network.mask_classes = metadata.mask_classes if metadata else {}
    return SiameseControl(network, load_device=load_device, manual_cast_dtype=cast_dtype)


def _network_config(weights: WeightFile, state_dict: StateDict) -> dict[str, Any]:
    """Architecture, from the keys' shapes as ComfyUI reads them, with dtype and device."""
    try:
        detected = comfy.model_detection.model_config_from_unet(dict(state_dict), "", True)
    except KeyError:  # ComfyUI looked for a key that is not there
        detected = None
    if detected is None:
        raise WeightsError(
            f"{weights.path}: the ControlNet's encoder is incomplete. Copy or train it again."
        )
    config: dict[str, Any] = dict(detected.unet_config)
    config.pop("out_channels")
    config["dtype"] = comfy.model_management.unet_dtype(
        model_params=-1,
        supported_dtypes=list(detected.supported_inference_dtypes),
        weight_dtype=comfy.utils.weight_dtype(state_dict),
    )
    config["device"] = comfy.model_management.unet_offload_device()
    return config
