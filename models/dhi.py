"""Dense Hint Input (DHI): the hint stem of the Siamese-Diffusion ControlNet.

Source: Qiu et al., CVPR 2025 (arXiv 2505.06068); published file `cldm/dhi.py`. Parameter names and
order of operations are those of the published `input_hint_block`, so that each code can load the
other's weights.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor, nn

FEATURE_CHANNELS = 256
DOWNSCALE = 8


class ResidualBlock(nn.Module):
    """conv-SiLU-conv plus skip, SiLU after the sum: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1, **factory)
        self.silu = nn.SiLU()
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.silu(x + self.conv2(self.silu(self.conv1(x))))


class PatchMerging(nn.Module):
    """2x2 neighbours -> LayerNorm -> Linear: (B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(4 * channels, **factory)
        self.reduction = operations.Linear(4 * channels, 2 * channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        # Neighbour order of the published weights, as (row, column): (0,0), (1,0), (0,1), (1,1).
        x = rearrange(x, "b c (h row) (w column) -> b h w (column row c)", row=2, column=2)
        return rearrange(self.reduction(self.norm(x)), "b h w c -> b c h w")


class FeatureExtractor(nn.Module):
    """Encode a hint (B, C, H, W) in [0, 1] to features (B, 256, H/8, W/8)."""

    def __init__(self, hint_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()

        def conv(channels_in: int, channels_out: int) -> nn.Module:
            return operations.Conv2d(channels_in, channels_out, 3, padding=1, **factory)

        def residual(channels: int) -> nn.Module:
            return ResidualBlock(channels, operations, **factory)

        def merge(channels: int) -> nn.Module:
            return PatchMerging(channels, operations, **factory)

        self.initial_conv = conv(hint_channels, 16)
        self.layer1 = residual(16)
        self.conv_before_res2 = conv(16, 32)
        self.layer2 = residual(32)
        self.patch_merge1 = merge(32)
        self.conv_before_res3 = conv(64, 64)
        self.layer3 = residual(64)
        self.patch_merge2 = merge(64)
        self.conv_before_res4 = conv(128, 128)
        self.layer4 = residual(128)
        self.patch_merge3 = merge(128)
        self.conv_before_res5 = conv(256, FEATURE_CHANNELS)
        self.layer5 = residual(FEATURE_CHANNELS)

    def forward(self, hint: Tensor) -> Tensor:
        x = self.layer1(self.initial_conv(hint))  # (B, 16, H, W)
        x = self.layer2(self.conv_before_res2(x))  # (B, 32, H, W)
        x = self.layer3(self.conv_before_res3(self.patch_merge1(x)))  # (B, 64, H/2, W/2)
        x = self.layer4(self.conv_before_res4(self.patch_merge2(x)))  # (B, 128, H/4, W/4)
        return self.layer5(self.conv_before_res5(self.patch_merge3(x)))  # (B, 256, H/8, W/8)


class DenseHintInput(nn.Sequential):
    """Encode a hint (B, C, H, W) in [0, 1] to (B, out_channels, H/8, W/8), for the ControlNet.

    `operations` is the layer namespace: `torch.nn`, or ComfyUI's cast-aware ops. The last
    convolution starts at zero, so a new DHI adds nothing. Raises ValueError when H or W is not a
    multiple of 8 or the number of channels is wrong.
    """

    def __init__(
        self,
        hint_channels: int = 3,
        out_channels: int = 320,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        out = operations.Conv2d(FEATURE_CHANNELS, out_channels, 3, padding=1, **factory)
        super().__init__(FeatureExtractor(hint_channels, operations, **factory), out)
        self.hint_channels = hint_channels
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)

    def forward(self, hint: Tensor, *_timestep_and_context: Any) -> Tensor:
        """Encode the hint; timestep and context, which some hosts pass, are not used."""
        channels, height, width = hint.shape[1:]
        if channels != self.hint_channels:
            raise ValueError(
                f"The hint has {channels} channels; this DHI was made for {self.hint_channels}."
            )
        if height % DOWNSCALE or width % DOWNSCALE:
            raise ValueError(
                f"The hint is {width}x{height} pixels; width and height must be multiples of "
                f"{DOWNSCALE}. Resize or pad the mask to such a size."
            )
        return super().forward(hint)
