"""One Run stream to a worker: it ends when the worker does, hangs, or says what makes no sense."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from grpc import aio

from ..domain.worker_words import Credits, Draining, Event, Heartbeat, PromptLogprobs, Step
from . import protocol
from .liveness import Fault, FaultKind, Liveness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from textserve.internal.v1 import worker_pb2 as pb
    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

    from ..domain.generation import Generation
    from ..domain.request import ModelFacts

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25
STALL_S = 1.0


class SendBuffer:
    """What the gateway has to say to one worker and has not sent yet.

    Collects submissions, cancels and the latest depth of the queue; what one turn of the event loop brings goes out
    together. Submissions and cancels keep their order: a row that was freed and taken again never counts as two at the
    worker.
    """

    def __init__(self) -> None:
        self._requests: list[pb.RunRequest] = []
        self._depth = 0
        self._reported_depth = 0
        self._closed = False
        self._ready = asyncio.Event()

    def submit(self, generation: Generation) -> None:
        """Hands over what of a generation has not ended by now."""
        self._requests.append(protocol.submit(generation))
        self._ready.set()

    def cancel(self, sequence_ids: Iterable[int]) -> None:
        """Drops sequences."""
        if self._requests and self._requests[-1].HasField("cancel"):
            self._requests[-1].cancel.sequence_ids.extend(sequence_ids)
        else:
            self._requests.append(protocol.cancel(sequence_ids))
        self._ready.set()

    def report_queue_depth(self, row_count: int) -> None:
        """Tells how many rows wait for a worker, unless the worker knows it already."""
        self._depth = row_count
        if row_count != self._reported_depth:
            self._ready.set()

    def close(self) -> None:
        """Ends `requests`; what was not sent is dropped."""
        self._closed = True
        self._ready.set()

    async def requests(self) -> AsyncIterator[pb.RunRequest]:
        """Yields what is to be sent, until `close`."""
        while not self._closed:
            self._ready.clear()
            requests, self._requests = self._requests, []
            for request in requests:
                yield request
            if self._depth != self._reported_depth:
                self._reported_depth = self._depth
                yield protocol.demand(self._depth)
            await self._ready.wait()


class InFlight(Protocol):
    """What is outstanding on one worker, for as long as one stream to it lasts; `dispatch.in_flight` keeps account."""

    row_limit: int
    """Most rows that may be outstanding, as the worker last said."""

    draining: bool
    """Whether the worker takes nothing new."""

    def step(self, step: Step, now: float) -> None:
        """Takes in the outcome of engine steps."""
        ...

    def prompt_logprobs(self, part: PromptLogprobs) -> None:
        """Takes in a part of a prompt's log-probabilities."""
        ...


F = TypeVar("F", bound=InFlight)


class Dispatch(Protocol[F]):
    """Who is told of workers, and gives them work; `dispatch.dispatcher` does, and says what each of it is."""

    def open(self, worker: str, buffer: SendBuffer, facts: ModelFacts | None) -> F:
        """The account of a worker, and where it puts what the worker is to be told; it gets no work yet."""
        ...

    def add(self, in_flight: F) -> None:
        """A worker takes work now."""
        ...

    def remove(self, in_flight: F, why: str, *, died: bool) -> list[Generation]:
        """A worker is gone: what it has not finished waits for another one, and is returned."""
        ...

    def stepped(self, in_flight: F) -> None:
        """A worker has told the outcome of steps."""
        ...

    def workers_changed(self) -> None:
        """A worker drains."""
        ...

    def wake(self) -> None:
        """A worker takes more, or fewer."""
        ...

    def retract_death(self, generations: Iterable[Generation]) -> None:
        """Their worker, which was thought dead, has been found alive."""
        ...


@dataclass(frozen=True, slots=True)
class _Cause:
    why: str
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stream ended, and what goes on elsewhere."""

    why: str
    counted_as_death: bool
    """Whether the worker was taken for dead, as all are that do not drain. The same process may answer again."""
    fault: Fault | None
    """What was seen to be wrong with the worker, if that was the reason."""
    unfinished: tuple[Generation, ...]

    @property
    def hangs(self) -> bool:
        """Whether the process is there and does not work."""
        return self.fault is not None and self.fault.kind is not FaultKind.REPLACED


class RunStream(Generic[F]):
    """Opens a stream, and an account of what is outstanding with it.

    Args:
        worker: Name of the worker.
        dispatch: Gets the worker once it has granted room.
        liveness: Judges the worker; for this stream alone.
        clock: Seconds of a monotonic clock.
        has_unread: Whether the worker has said what this process did not read yet.
        facts: What the worker said of its model and its room; None: whatever is submitted fits there.
    """

    def __init__(
        self,
        worker: str,
        dispatch: Dispatch[F],
        liveness: Liveness,
        clock: Callable[[], float],
        has_unread: Callable[[], bool],
        *,
        facts: ModelFacts | None = None,
    ) -> None:
        self._worker = worker
        self._dispatch = dispatch
        self._liveness = liveness
        self._clock = clock
        self._has_unread = has_unread
        self._buffer = SendBuffer()
        self._in_flight = dispatch.open(worker, self._buffer, facts)
        self._granted = False
        self._added = False

    async def serve(self, stub: WorkerServiceAsyncStub) -> Ending:
        """Runs the stream to its end. If it is cancelled, the process is gone."""
        call = stub.Run(self._buffer.requests())
        tasks = [asyncio.create_task(self._read(call)), asyncio.create_task(self._watch())]
        cause = _Cause("its process has ended")
        unfinished: list[Generation] = []
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            causes = [self._outcome(task) for task in tasks if task.done()]
            cause = causes[0]
        finally:
            unfinished = self._lose(cause.why)
            for task in tasks:
                task.cancel()
            call.cancel()
            await asyncio.wait(tasks)
        return Ending(cause.why, not self._in_flight.draining, cause.fault, tuple(unfinished))

    def take(self, event: Event) -> None:
        """Acts on what the worker says."""
        now = self._clock()
        self._liveness.heard_at = now
        match event:
            case Step():
                self._liveness.has_stepped = True
                self._in_flight.step(event, now)
                self._dispatch.stepped(self._in_flight)
            case Heartbeat():
                self._liveness.beat(event)
                self._join(now)
            case PromptLogprobs():
                self._in_flight.prompt_logprobs(event)
            case Credits(limit):
                self._grant(limit, now)
            case Draining():
                self._in_flight.draining = True
                self._dispatch.workers_changed()

    async def _read(self, call: aio.StreamStreamCall) -> _Cause:  # type: ignore[type-arg]
        try:
            async for message in call:
                event = protocol.read_event(message)
                if event is not None:
                    self.take(event)
        except aio.AioRpcError as error:
            return _Cause(f"stream broken: {error.details()}")
        return _Cause("the worker has drained" if self._in_flight.draining else "the worker ended the stream")

    def _outcome(self, task: asyncio.Task[_Cause]) -> _Cause:
        if error := task.exception():
            logger.error("%s sent what can't be taken in", self._worker, exc_info=error)
            return _Cause("its messages make no sense")
        return task.result()

    async def _watch(self) -> _Cause:
        """Returns what is wrong with the worker, once it stands at two looks in turn.

        After a stall of this process, messages that came in time are still to be read: a late look says nothing. Nor
        does silence while the worker's words lie unread.
        """
        faults, looked_at = 0, self._clock()
        while True:
            now = self._clock()
            is_late, looked_at = now - looked_at > STALL_S, now
            fault = None if is_late else self._liveness.fault(now)
            if fault and fault.kind is FaultKind.SILENT and self._has_unread():
                fault = None
            faults = faults + 1 if fault else 0
            if fault and faults > 1:
                return _Cause(fault.why, fault)
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _lose(self, why: str) -> list[Generation]:
        self._buffer.close()
        # A worker that drains may be ended by whoever drains it: what it still ran has done nothing to it.
        return self._dispatch.remove(self._in_flight, why, died=not self._in_flight.draining)

    def _grant(self, limit: int, now: float) -> None:
        self._in_flight.row_limit = limit
        self._granted = True
        if self._added:
            self._dispatch.wake()
        else:
            self._join(now)

    def _join(self, now: float) -> None:
        """Takes work, once there are credits and nothing is wrong: a grant is not said twice to who did not use it."""
        if self._granted and not self._added and self._liveness.fault(now) is None:
            self._added = True
            self._dispatch.add(self._in_flight)
