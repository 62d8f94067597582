"""What decides the pictures, apart from weights and masks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..common.pictures import Size

Precision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class Settings:
    """How each image is sampled; names and defaults are the flags'.

    resolution: (width, height) in pixels, None for each mask's own size.
    """

    seed: int = 0
    steps: int = 50
    cfg: float = 9.0
    sampler: str = "ddim_published"
    schedule: str = "default"
    resolution: Size | None = None
    mixed_precision: Precision = "no"

    def to_values(self) -> dict[str, Any]:
        """As in the manifest."""
        size = self.resolution
        return {**asdict(self), "resolution": f"{size[0]},{size[1]}" if size else None}
