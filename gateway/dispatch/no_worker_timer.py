"""The time without any worker, while requests wait for one to come back."""

import asyncio
from collections.abc import Callable


class NoWorkerTimer:
    """Runs from the loss of the last worker until one is there again, or the patience is at its end.

    Args:
        patience_s: How long it may run, in seconds.
        on_end_of_patience: Called then, with the name of the worker that was lost, and why it was.
    """

    def __init__(self, patience_s: float, on_end_of_patience: Callable[[str, str], None]) -> None:
        self._patience_s = patience_s
        self._on_end_of_patience = on_end_of_patience
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether a worker is still awaited."""
        return self._timer is not None

    def start(self, worker: str, why: str) -> None:
        """The last worker was lost."""
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._lose_patience, worker, why)

    def stop(self) -> None:
        """A worker is there, or nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lose_patience(self, worker: str, why: str) -> None:
        self._timer = None
        self._on_end_of_patience(worker, f"{why}; none was ready within {self._patience_s:g} s")
