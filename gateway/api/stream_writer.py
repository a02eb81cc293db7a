"""Wakes the writer of one stream: at most once an interval, and with everything that has come meanwhile merged.

A message costs the gateway and its caller some two hundred microseconds of processor time, whatever is in it, and
gRPC's flow control reports a caller that falls behind only after tens of thousands of messages. So streams share a
budget of messages a second: few streams get every token as it comes, many get several tokens in one message.
"""

import asyncio
from collections.abc import Callable

from ..domain.generation import Generation

# Text of a caller that does not read piles up here; models generate no more than their context holds, so that only
# the longest outputs can reach the limit.
MAX_PENDING_CHARS = 1 << 20

SECONDS_PER_MESSAGE = 0.0003
MAX_INTERVAL_S = 0.04


def write_interval_s(stream_count: int) -> float:
    """Least time between two messages of one stream while `stream_count` streams are open."""
    return min(stream_count * SECONDS_PER_MESSAGE, MAX_INTERVAL_S)


class StreamWriter:
    """Stands between a generation, which changes at any time, and its writer, which may be slow.

    Args:
        generation: What is delivered; its `on_change` comes here.
        interval_s: Least time between two wake-ups, asked anew each time; the end of the generation does not wait.
        on_overflow: Called when more than MAX_PENDING_CHARS wait for a writer that is still busy.
    """

    def __init__(
        self, generation: Generation, *, interval_s: Callable[[], float], on_overflow: Callable[[], None]
    ) -> None:
        self._generation = generation
        self._interval_s = interval_s
        self._on_overflow = on_overflow
        self._loop = asyncio.get_running_loop()
        self._changed = False
        self._next_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        generation.on_change = self._notify

    async def changed(self) -> None:
        """Returns when there is something to deliver that was not there at the last return."""
        self._waiter = self._loop.create_future()
        if self._changed:
            self._schedule(self._waiter)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self._changed = False
        self._next_at = self._loop.time() + self._interval_s()

    def _notify(self) -> None:
        self._changed = True
        waiter = self._waiter
        if waiter is None:
            if self._generation.pending_chars > MAX_PENDING_CHARS and not self._generation.finished:
                self._on_overflow()
        elif not waiter.done():
            self._schedule(waiter)

    def _schedule(self, waiter: asyncio.Future[None]) -> None:
        """Wakes the writer when the interval has passed, or at once at the end."""
        if self._next_at <= self._loop.time() or self._generation.finished:
            waiter.set_result(None)
        elif self._timer is None:
            self._timer = self._loop.call_at(self._next_at, self._wake)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
