"""The connection to one worker: kept up as long as the worker is meant to be there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING

from grpc import aio

from textserve.internal.v1.worker_pb2_grpc import WorkerServiceStub

from .handshake import HandshakeError, shake_hands
from .liveness import Heartbeat, Liveness
from .models import ModelMismatchError
from .outbox import Outbox
from .pool.backoff import Backoff, BackoffPolicy
from .session import Session
from .transport import worker_channel_options
from .worker_messages import Credits, Draining, Event, Step, read_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

    from .dispatcher import Dispatcher
    from .models import Models
    from .pool import WorkerAddress

logger = logging.getLogger(__name__)

RECONNECT = BackoffPolicy(initial_s=0.1, max_s=5.0, reset_after_s=10.0)
LOOK_INTERVAL_S = 0.25


class Link:
    """Connects to a worker, learns its model, opens the one stream to it, and does so again when it is lost.

    Args:
        address: Where the worker listens.
        models: Checks, or learns, the worker's model.
        dispatcher: Gets a session for each stream.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self, address: WorkerAddress, *, models: Models, dispatcher: Dispatcher, clock: Callable[[], float]
    ) -> None:
        self._address = address
        self._models = models
        self._dispatcher = dispatcher
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts to connect."""
        self._task = asyncio.create_task(self._keep_up(), name=f"link {self._address.name}")

    async def close(self) -> None:
        """Gives the worker up. What it ran ends with WORKER_LOST."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_up(self) -> None:
        backoff = Backoff(RECONNECT)
        while True:
            began_at = self._clock()
            why = await self._attend()
            delay_s = backoff.next_delay(uptime_s=self._clock() - began_at, chance=random.random())  # noqa: S311 - jitter
            logger.warning("%s: %s; next attempt in %.1f s", self._address.name, why, delay_s)
            await asyncio.sleep(delay_s)

    async def _attend(self) -> str:
        """Serves one connection to its end, and returns why it ended."""
        target = self._address.target
        async with aio.insecure_channel(target, options=worker_channel_options()) as channel:
            stub: WorkerServiceAsyncStub = WorkerServiceStub(channel)
            try:
                description = await shake_hands(stub, self._models)
            except (HandshakeError, ModelMismatchError) as error:
                return f"refused: {error}"
            except aio.AioRpcError as error:
                return f"no answer from {target}: {error.details()}"
            logger.info("%s: connected to %s (%s)", self._address.name, target, ", ".join(description.devices))
            liveness = Liveness(description.incarnation_id, self._clock())
            return await _Stream(self._address.name, self._dispatcher, liveness, self._clock).serve(stub)


class _Stream:
    """One Run stream."""

    def __init__(self, worker: str, dispatcher: Dispatcher, liveness: Liveness, clock: Callable[[], float]) -> None:
        self._dispatcher = dispatcher
        self._liveness = liveness
        self._clock = clock
        self._outbox = Outbox()
        self._session = Session(worker, self._outbox)
        self._added = False

    async def serve(self, stub: WorkerServiceAsyncStub) -> str:
        """Runs the stream to its end, and returns why it ended."""
        call = stub.Run(self._outbox.requests())
        tasks = [asyncio.create_task(self._read(call)), asyncio.create_task(self._watch())]
        why = "its process has ended"
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            why = self._outcome(done.pop())
        finally:
            self._dispatcher.remove(self._session, why)
            self._outbox.close()
            for task in tasks:
                task.cancel()
            call.cancel()
            await asyncio.wait(tasks)
        return why

    async def _read(self, call: aio.StreamStreamCall) -> str:  # type: ignore[type-arg]
        try:
            async for message in call:
                event = read_event(message)
                if event is not None:
                    self._take(event)
        except aio.AioRpcError as error:
            return f"stream broken: {error.details()}"
        return "the worker has drained" if self._session.draining else "the worker ended the stream"

    def _outcome(self, task: asyncio.Task[str]) -> str:
        if error := task.exception():
            logger.error("%s sent what can't be taken in", self._session.worker, exc_info=error)
            return "its messages make no sense"
        return task.result()

    async def _watch(self) -> str:
        """Returns what is wrong with the worker, once it stands at two looks in turn.

        After a stall of this process, messages that came in time are still to be read.
        """
        faults = 0
        while True:
            fault = self._liveness.fault(self._clock())
            faults = faults + 1 if fault else 0
            if fault and faults > 1:
                return fault
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _take(self, event: Event) -> None:
        now = self._clock()
        self._liveness.heard(now)
        match event:
            case Heartbeat():
                self._liveness.beat(event)
            case Step():
                self._session.step(event, now)
                self._dispatcher.dispatch()
            case Credits(limit):
                self._grant(limit, now)
            case Draining():
                self._session.draining = True
                self._dispatcher.workers_changed()

    def _grant(self, limit: int, now: float) -> None:
        self._session.sequence_limit = limit
        if self._added:
            self._dispatcher.dispatch()
        elif self._liveness.fault(now) is None:
            self._added = True
            self._dispatcher.add(self._session)
