"""What the gateway has to say to one worker and has not sent yet."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

from textserve.internal.v1 import worker_pb2 as pb

from . import worker_messages
from .generation import Generation


class Outbox:
    """Collects submissions, cancels and the latest demand; what one turn of the event loop brings goes out together."""

    def __init__(self) -> None:
        self._submits: list[Generation] = []
        self._cancels: list[int] = []
        self._demand = 0
        self._told_demand = 0
        self._closed = False
        self._ready = asyncio.Event()

    def submit(self, generation: Generation) -> None:
        """Hands over a generation."""
        self._submits.append(generation)
        self._ready.set()

    def cancel(self, sequence_ids: Iterable[int]) -> None:
        """Drops sequences. They go out behind the submissions, so that the worker knows what it is to drop."""
        self._cancels.extend(sequence_ids)
        self._ready.set()

    def tell_demand(self, queued_count: int) -> None:
        """Tells how many sequences wait, unless the worker knows it already."""
        self._demand = queued_count
        if queued_count != self._told_demand:
            self._ready.set()

    def close(self) -> None:
        """Ends `requests`; what was not sent is dropped."""
        self._closed = True
        self._ready.set()

    async def requests(self) -> AsyncIterator[pb.RunRequest]:
        """Yields what is to be sent, until `close`."""
        while not self._closed:
            self._ready.clear()
            for request in self._take():
                yield request
            await self._ready.wait()

    def _take(self) -> Iterator[pb.RunRequest]:
        submits, self._submits = self._submits, []
        cancels, self._cancels = self._cancels, []
        for generation in submits:
            yield worker_messages.submit(generation)
        if cancels:
            yield worker_messages.cancel(cancels)
        if self._demand != self._told_demand:
            self._told_demand = self._demand
            yield worker_messages.demand(self._demand)
