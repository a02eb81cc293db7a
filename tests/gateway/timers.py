"""Limits on time that a test brings to their end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Limits:
    """Stands for `time_limit`: the test says when the time is over."""

    def __init__(self) -> None:
        self.running: list[tuple[float, Callable[[], None]]] = []

    @contextmanager
    def __call__(self, remaining_s: float | None, on_over: Callable[[], None]) -> Iterator[None]:
        if remaining_s is None:
            yield
            return
        self.running.append((remaining_s, on_over))
        try:
            yield
        finally:
            self.running.pop()

    def over(self) -> None:
        for _, on_over in self.running:
            on_over()
