"""What decides the pictures, apart from weights and masks; and which of them a process makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..common.items import hash_number
from ..common.pictures import Size

Precision = Literal["no", "fp16", "bf16"]
PUBLISHED = "ddim_published"
# Those of diffusers that it calls interchangeable, by their classes' names without "Scheduler".
SAMPLERS = (
    PUBLISHED, "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep",
    "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
    "KDPM2Discrete", "LMSDiscrete", "PNDM", "UniPCMultistep",
)  # fmt: skip
# Noise levels, and the argument of diffusers that chooses them.
SCHEDULES = {
    "default": "",
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
}


@dataclass(frozen=True)
class Settings:
    """How each image is sampled; names and defaults are the flags'.

    resolution: (width, height) in pixels, None for each mask's own size. least_contrast: the
    smallest share of its contrast that an image may keep.
    """

    seed: int = 0
    steps: int = 50
    cfg: float = 9.0
    sampler: str = PUBLISHED
    schedule: str = "default"
    resolution: Size | None = None
    mixed_precision: Precision = "no"
    least_contrast: float = 1.0

    def to_values(self) -> dict[str, Any]:
        """As in the manifest."""
        size = self.resolution
        return {**asdict(self), "resolution": f"{size[0]},{size[1]}" if size else None}


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 0, of `count` parts, by the hash of names: the same on every machine."""

    number: int = 0
    count: int = 1

    def __contains__(self, name: str) -> bool:
        return self.count == 1 or hash_number(name) % self.count == self.number

    @property
    def name(self) -> str:
        return f"{self.number:05}-of-{self.count:05}"
