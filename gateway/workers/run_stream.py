"""One Run stream to a worker: it ends when the worker does, hangs, or says what makes no sense."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc import aio

from ..dispatch.in_flight import Session
from .liveness import Fault, FaultKind, Heartbeat, Liveness
from .outbox import Outbox
from .protocol import Credits, Draining, Event, PromptLogprobs, Step, read_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

    from ..dispatch.dispatcher import Dispatcher
    from ..domain.generation import Generation
    from ..domain.request import ModelFacts

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25
STALL_S = 1.0


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


class WorkerStream:
    """Opens a stream, and a session with it.

    Args:
        worker: Name of the worker.
        dispatcher: Gets the session once the worker has granted room.
        liveness: Judges the worker; for this stream alone.
        clock: Seconds of a monotonic clock.
        has_unread: Whether the worker has said what this process did not read yet.
        facts: What the worker said of its model and its room; None: whatever is submitted fits there.
    """

    def __init__(
        self,
        worker: str,
        dispatcher: Dispatcher,
        liveness: Liveness,
        clock: Callable[[], float],
        has_unread: Callable[[], bool],
        *,
        facts: ModelFacts | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._liveness = liveness
        self._clock = clock
        self._has_unread = has_unread
        self._outbox = Outbox()
        self._session = Session(worker, self._outbox, facts)
        self._granted = False
        self._added = False

    async def serve(self, stub: WorkerServiceAsyncStub) -> Ending:
        """Runs the stream to its end. If it is cancelled, the process is gone."""
        call = stub.Run(self._outbox.requests())
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
        return Ending(cause.why, not self._session.draining, cause.fault, tuple(unfinished))

    def take(self, event: Event) -> None:
        """Acts on what the worker says."""
        now = self._clock()
        self._liveness.heard(now)
        match event:
            case Heartbeat():
                self._liveness.beat(event)
                self._join(now)
            case Step():
                self._liveness.stepped()
                self._session.step(event, now)
                self._dispatcher.stepped(self._session)
            case PromptLogprobs():
                self._session.prompt_logprobs(event)
            case Credits(limit):
                self._grant(limit, now)
            case Draining():
                self._session.draining = True
                self._dispatcher.workers_changed()

    async def _read(self, call: aio.StreamStreamCall) -> _Cause:  # type: ignore[type-arg]
        try:
            async for message in call:
                event = read_event(message)
                if event is not None:
                    self.take(event)
        except aio.AioRpcError as error:
            return _Cause(f"stream broken: {error.details()}")
        return _Cause("the worker has drained" if self._session.draining else "the worker ended the stream")

    def _outcome(self, task: asyncio.Task[_Cause]) -> _Cause:
        if error := task.exception():
            logger.error("%s sent what can't be taken in", self._session.worker, exc_info=error)
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
        self._outbox.close()
        # A worker that drains may be ended by whoever drains it: what it still ran has done nothing to it.
        return self._dispatcher.remove(self._session, why, died=not self._session.draining)

    def _grant(self, limit: int, now: float) -> None:
        self._session.row_limit = limit
        self._granted = True
        if self._added:
            self._dispatcher.wake()
        else:
            self._join(now)

    def _join(self, now: float) -> None:
        """Takes work, once there are credits and nothing is wrong: a grant is not said twice to who did not use it."""
        if self._granted and not self._added and self._liveness.fault(now) is None:
            self._added = True
            self._dispatcher.add(self._session)
