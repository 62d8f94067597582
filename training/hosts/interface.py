"""What a training host provides; the two are standalone.py and sd_scripts/host.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..config import TrainConfig
from ..toml_files import Table

if TYPE_CHECKING:  # Seconds to import: only once the data is known to be good.
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from ..data.batch_order import Share
    from ..method.base_model import BaseModel
    from ..method.objective import Batch


class Host(Protocol):
    """Loads what is trained, makes its optimizer, and has options of its own.

    name: for people, and for the metadata of what is trained.
    """

    name: str

    def resolve_subsets(self, content: Table, problems: list[str]) -> dict[str, Table]:
        """A dataset TOML's subsets with the keys they inherit, by the subset's name in messages."""

    def check(self, config: TrainConfig) -> None:
        """Check what needs no weights: the base model's header, optimizer, schedule, tokenizer.

        Raises ConfigError for flags, WeightsError for what is no Stable Diffusion 1.x or 2.x.
        """

    def load_base_model(self, config: TrainConfig, accelerator: Accelerator) -> BaseModel:
        """Raises WeightsError for what is no Stable Diffusion 1.x or 2.x."""

    def make_optimizer(
        self, config: TrainConfig, parameters: list[nn.Parameter]
    ) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and its learning rate over the steps. Raises ConfigError.

        That is for an unknown name, a missing package or a wrong argument.
        """

    def apply_noise_options(self, batch: Batch, share: Share, seed: int, step: int) -> Batch:
        """The share of a step with the host's noise and timestep options; on the CPU."""

    def loss_weight(self, timesteps: Tensor) -> Tensor | None:
        """Weight of each sample's loss (B,), or None for 1; timesteps (B,)."""

    def metadata(self, config: TrainConfig) -> dict[str, str]:
        """What the host's options add to the weights' metadata."""
