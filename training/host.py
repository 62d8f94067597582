"""What a training host provides; the two are standalone.py and sd_scripts.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .dataset_toml import Table
from .options import TrainConfig

if TYPE_CHECKING:  # Seconds to import: only once the data is known to be good.
    from accelerate import Accelerator
    from diffusers import UNet2DConditionModel
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from .ldm_keys import UNetShape
    from .objective import Batch
    from .schedule import Prediction


class Autoencoder(Protocol):
    """Between images (B, 3, H, W) in [0, 1] and latents (B, 4, H/8, W/8) of about unit variance."""

    module: nn.Module

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents' distribution."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1]."""


class TextEncoder(Protocol):
    """Turns captions into the conditioning that the UNet attends to."""

    module: nn.Module
    settings: str  # what, besides the weights, decides the embeddings

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (B, T, D) in float32, T = 77 unless set otherwise; longer captions are cut."""


@dataclass(frozen=True)
class BaseModel:
    """A Stable Diffusion 1.x/2.x model in memory, on the CPU in float32.

    base_hash: SHA-256 of the checkpoint file, as it goes to the metadata of what is trained on it;
    of a diffusers folder, that of its weight files' hashes.
    """

    unet: UNet2DConditionModel
    shape: UNetShape
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    prediction: Prediction
    base_hash: str


class Host(Protocol):
    """Loads what is trained, and lends what training scripts usually have.

    name: for people, and for the metadata of what is trained.
    """

    name: str

    def resolve_subsets(self, content: Table, problems: list[str]) -> dict[str, Table]:
        """A dataset TOML's subsets with the keys they inherit, by the subset's name in messages."""

    def load_base_model(self, config: TrainConfig, accelerator: Accelerator) -> BaseModel:
        """Raises WeightsError or FileNotFoundError for what is no Stable Diffusion 1.x or 2.x."""

    def make_optimizer(
        self, config: TrainConfig, parameters: list[nn.Parameter]
    ) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and its learning rate over the steps. Raises ConfigError.

        That is for an unknown name, a missing package or a wrong argument.
        """

    def vary(self, batch: Batch, seed: int, step: int) -> Batch:
        """The batch of a step with the host's noise and timestep options; on the CPU."""

    def loss_weight(self, timesteps: Tensor) -> Tensor | None:
        """Weight of each sample's loss (B,), or None for 1; timesteps (B,)."""

    def metadata(self, config: TrainConfig) -> dict[str, str]:
        """What the host's options add to the weights' metadata."""
