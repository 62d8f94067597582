"""The standalone host: what training needs, with diffusers and transformers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import TrainConfig
from ..data.dataset_toml import plain_subsets
from ..toml_files import Table

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from ..data.batch_order import Share
    from ..method.base_model import BaseModel
    from ..method.objective import Batch


class Standalone:
    """Host for people without sd-scripts; the same files and flags."""

    name = "standalone"

    def resolve_subsets(self, content: Table, problems: list[str]) -> dict[str, Table]:
        return plain_subsets(content, problems)

    def check(self, config: TrainConfig) -> None:
        import torch

        from .single_file import check_header
        from .tokenizer import tokenizer_folder

        check_header(config.pretrained_model_name_or_path)
        if config.tokenizer_cache_dir is not None:
            tokenizer_folder(config.tokenizer_cache_dir)
        self.make_optimizer(config, [torch.nn.Parameter(torch.ones(1))])

    def load_base_model(self, config: TrainConfig, _accelerator: Accelerator) -> BaseModel:
        from .single_file import load_base_model

        return load_base_model(
            config.pretrained_model_name_or_path,
            config.tokenizer_cache_dir,
            config.v_parameterization,
        )

    def make_optimizer(
        self, config: TrainConfig, parameters: list[nn.Parameter]
    ) -> tuple[Optimizer, LRScheduler]:
        from .optimizers import make_optimizer, make_scheduler

        optimizer = make_optimizer(
            config.optimizer_type, config.optimizer_args, parameters, config.learning_rate
        )
        return optimizer, make_scheduler(
            config.lr_scheduler, optimizer, config.warmup_steps, config.max_train_steps
        )

    def apply_noise_options(self, batch: Batch, _share: Share, _seed: int, _step: int) -> Batch:
        return batch

    def loss_weight(self, _timesteps: Tensor) -> Tensor | None:
        return None

    def metadata(self, _config: TrainConfig) -> dict[str, str]:
        return {}
