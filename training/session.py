"""One training session: loads the base model, prepares the data, and runs the trainer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from accelerate import Accelerator

from ..models.weights import WeightsError
from .data import TrainingData
from .options import TrainConfig
from .pairs import Pair
from .standalone import load_base_model
from .trainer import Trainer, TrainingError

log = logging.getLogger(__name__)


def start(config: TrainConfig, pairs: Sequence[Pair]) -> int:
    """Train. Returns the exit code; user errors are printed as one line."""
    try:
        base = load_base_model(
            config.pretrained_model_name_or_path,
            config.tokenizer_cache_dir,
            config.v_parameterization,
        )
        accelerator = Accelerator()
        data = TrainingData(pairs, config.size)
        data.prepare(base, accelerator.device, quiet=not accelerator.is_main_process)
        trainer = Trainer(config, base, data, accelerator)
        config.output_dir.mkdir(parents=True, exist_ok=True)
        trainer.folder.config.write_text(config.to_json() + "\n", encoding="utf-8")
        trainer.train()
    except (WeightsError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
