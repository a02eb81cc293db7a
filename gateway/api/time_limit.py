"""A request's own limit on its time."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def time_limit(remaining_s: float | None, on_over: Callable[[], None]) -> Iterator[None]:
    """Calls `on_over` once, from the event loop, if the block takes longer than `remaining_s`; None is no limit."""
    if remaining_s is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(remaining_s, on_over)
    try:
        yield
    finally:
        timer.cancel()
