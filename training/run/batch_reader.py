"""Reading the batch of the next step while the present one is trained."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from ..config import TrainConfig
from ..data.batch_order import BatchOrder
from ..data.batches import TrainingData
from ..method.objective import Batch


class BatchReader:
    """The global batch of each step, on the CPU; read ahead by one, on a thread."""

    def __init__(self, config: TrainConfig, data: TrainingData, order: BatchOrder) -> None:
        self._config, self._data, self._order = config, data, order
        self._thread = ThreadPoolExecutor(1)
        self._reading: dict[int, Future[Batch]] = {}  # by step

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0 on. Raises what reading it has raised."""
        batch = (self._reading.pop(step, None) or self._read(step)).result()
        if step + 1 < self._config.max_train_steps:
            self._reading[step + 1] = self._read(step + 1)
        return batch

    def _read(self, step: int) -> Future[Batch]:
        indices, config = self._order.batch(step), self._config
        return self._thread.submit(
            self._data.batch, indices, config.seed, step, config.caption_dropout_rate
        )
