"""What the gateway has to say to one worker and has not sent yet."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

from textserve.internal.v1 import worker_pb2 as pb

from ..domain.generation import Generation
from . import protocol as worker_messages


class Outbox:
    """Collects submissions, cancels and the latest demand; what one turn of the event loop brings goes out together.

    Submissions and cancels keep their order: a row that was freed and taken again never counts as two at the worker.
    """

    def __init__(self) -> None:
        self._orders: list[pb.RunRequest] = []
        self._demand = 0
        self._told_demand = 0
        self._closed = False
        self._ready = asyncio.Event()

    def submit(self, generation: Generation) -> None:
        """Hands over what of a generation has not ended by now."""
        self._orders.append(worker_messages.submit(generation))
        self._ready.set()

    def cancel(self, sequence_ids: Iterable[int]) -> None:
        """Drops sequences."""
        if self._orders and self._orders[-1].HasField("cancel"):
            self._orders[-1].cancel.sequence_ids.extend(sequence_ids)
        else:
            self._orders.append(worker_messages.cancel(sequence_ids))
        self._ready.set()

    def tell_demand(self, row_count: int) -> None:
        """Tells how many rows wait for a worker, unless the worker knows it already."""
        self._demand = row_count
        if row_count != self._told_demand:
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
        orders, self._orders = self._orders, []
        yield from orders
        if self._demand != self._told_demand:
            self._told_demand = self._demand
            yield worker_messages.demand(self._demand)
