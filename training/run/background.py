"""Work beside the training loop: files that nothing in a step depends on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """One thread, which does one task after the other; what one raises is raised in the loop.

    Within it tasks may be started. At its end all are done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "background")
        self._tasks: list[Future[None]] = []

    @property
    def busy(self) -> bool:
        return any(not task.done() for task in self._tasks)

    def start(self, task: Callable[[], None]) -> None:
        """Begin a task once the earlier ones are done."""
        self._tasks.append(self._thread.submit(task))

    def check(self) -> None:
        """Raise what a task that is done has raised; the others go on."""
        done = [task for task in self._tasks if task.done()]
        self._tasks = [task for task in self._tasks if task not in done]
        for task in done:
            task.result()

    def wait(self) -> None:
        """Return once every task is done. Raises what the first that failed has raised."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()
