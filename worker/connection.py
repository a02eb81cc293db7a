"""One gateway's Run stream, as the worker sees it: what it has here, and what is to be sent to it."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from textserve.internal.v1 import worker_pb2 as pb

from .engine_thread import Emission
from .messages import add_emissions
from .sequence import Sequence


class Connection:
    """State of one Run stream. Lives on the event loop.

    Steps that a slow gateway has not taken yet are merged into one message, so that what waits is bounded by the tokens
    of its own sequences.
    """

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.sequences: dict[int, Sequence] = {}
        """What was submitted and has neither ended nor been cancelled, by sequence id."""
        self.queued_count = 0
        """What waits in the gateway's own queue, as it last said."""
        self.sequence_limit = 0
        """What it was last granted."""
        self._step: pb.Step | None = None
        self._control: list[pb.RunResponse] = []
        self._ready = asyncio.Event()
        self._closed = False

    @property
    def demand(self) -> int:
        return len(self.sequences) + self.queued_count

    def grant(self, sequence_limit: int) -> None:
        """Sends the gateway's share of the room, if it changed."""
        if sequence_limit != self.sequence_limit:
            self.sequence_limit = sequence_limit
            self.send(pb.RunResponse(credits=pb.Credits(sequence_limit=sequence_limit)))

    def deliver(self, step: int, emissions: Iterable[Emission]) -> None:
        """Sends what a step made; emissions for sequences that have been cancelled meanwhile are dropped."""
        known = [emission for emission in emissions if emission.sequence_id in self.sequences]
        for emission in known:
            if emission.finish is not None:
                del self.sequences[emission.sequence_id]
        if known:
            add_emissions(self._pending_step(), step, known)

    def finish(self, ending: pb.SequenceFinish) -> None:
        """Sends the end of a sequence that was refused."""
        self._pending_step().finishes.append(ending)

    def send(self, message: pb.RunResponse) -> None:
        """Sends a message that is not part of a step."""
        self._control.append(message)
        self._ready.set()

    def close(self) -> None:
        """Ends the stream once everything has been taken."""
        self._closed = True
        self._ready.set()

    def _pending_step(self) -> pb.Step:
        if self._step is None:
            self._step = pb.Step()
        self._ready.set()
        return self._step

    async def messages(self) -> AsyncIterator[pb.RunResponse]:
        """Yields what is to be sent, until `close`."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            control, self._control = self._control, []
            step, self._step = self._step, None
            if step is not None:
                yield pb.RunResponse(step=step)
            for message in control:
                yield message
            if self._closed and not self._ready.is_set():
                return
