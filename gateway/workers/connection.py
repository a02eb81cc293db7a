"""The connection to one worker: kept up as long as the worker is meant to be there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc import StatusCode, aio

from textserve.internal.v1.worker_pb2_grpc import WorkerServiceStub

from ..api.transport import worker_channel_options
from ..domain.served_model import ModelMismatchError
from .handshake import HandshakeError, shake_hands, why_unreachable
from .liveness import FaultKind, Liveness
from .pool.supervisor import Backoff, BackoffPolicy
from .run_stream import Ending, WorkerStream
from .unread import has_unread

if TYPE_CHECKING:
    from collections.abc import Callable

    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

    from ..dispatch.dispatcher import Dispatcher
    from ..domain.generation import Generation
    from ..domain.served_model import Models
    from ..scheduling.outliers import OutlierDetector
    from .pool import WorkerAddress
    from .protocol import Description

logger = logging.getLogger(__name__)

RECONNECT = BackoffPolicy(initial_s=0.1, max_s=5.0, reset_after_s=10.0)
# A broken stream alone may be this process's doing, as may one handshake without an answer: after a stall of its own.
SIGNS_OF_A_HANG = 2


@dataclass(frozen=True, slots=True)
class _Lost:
    """What ran in a process when it was taken for dead. Whether it was shows when one answers again.

    Not if its engine hung: an answer says nothing of that.
    """

    incarnation_id: str
    unfinished: tuple[Generation, ...]


class Link:
    """Connects to a worker, learns its model, opens the one stream to it, and does so again when it is lost.

    Args:
        address: Where the worker listens.
        models: Checks, or learns, the worker's model.
        dispatcher: Gets a session for each stream.
        clock: Seconds of a monotonic clock.
        outliers: Is told of each death.
        replace: The pool's; asked to end a worker that hangs, and to start it again.
    """

    def __init__(
        self,
        address: WorkerAddress,
        *,
        models: Models,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        outliers: OutlierDetector,
        replace: Callable[[WorkerAddress, str], bool],
    ) -> None:
        self._address = address
        self._models = models
        self._dispatcher = dispatcher
        self._clock = clock
        self._outliers = outliers
        self._replace = replace
        self._lost: _Lost | None = None
        self._signs_of_a_hang = 0
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts to connect."""
        self._task = asyncio.create_task(self._keep_up(), name=f"link {self._address.name}")

    async def close(self) -> None:
        """Gives the worker up. What it ran goes on elsewhere."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_up(self) -> None:
        backoff = Backoff(RECONNECT)
        while True:
            began_at = self._clock()
            try:
                why = await self._attend()
                if self._hangs and self._replace(self._address, why):
                    return  # the pool ends this link with the process
            except Exception as error:
                # Whatever it is, this worker or the next in its place may do better; without a link none is used.
                logger.exception("%s: a connection failed", self._address.name)
                why = f"unexpected {type(error).__name__}"
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
                self._signs_of_a_hang += error.code() is StatusCode.DEADLINE_EXCEEDED and not self._has_unread()
                return f"no answer from {target}: {await why_unreachable(channel, error)}"
            self._signs_of_a_hang = 0
            with self._models.connected(description.facts):
                logger.info("%s: connected to %s (%s)", self._address.name, target, ", ".join(description.devices))
                self._retract_death(description.incarnation_id)
                return await self._serve(stub, description)

    async def _serve(self, stub: WorkerServiceAsyncStub, description: Description) -> str:
        liveness = Liveness(description.incarnation_id, self._clock())
        stream = WorkerStream(
            self._address.name,
            self._dispatcher,
            liveness,
            self._clock,
            self._has_unread,
            facts=description.facts,
        )
        ending = await stream.serve(stub)
        self._signs_of_a_hang = SIGNS_OF_A_HANG if ending.hangs else int(ending.counted_as_death)
        if ending.counted_as_death:
            self._note_death(ending, description.incarnation_id)
        return ending.why

    def _has_unread(self) -> bool:
        return has_unread(self._address.target)

    @property
    def _hangs(self) -> bool:
        return self._signs_of_a_hang >= SIGNS_OF_A_HANG

    def _note_death(self, ending: Ending, incarnation_id: str) -> None:
        self._outliers.failed(self._address.name, 1, self._clock())
        if ending.fault is None or ending.fault.kind is not FaultKind.HUNG:
            self._lost = _Lost(incarnation_id, ending.unfinished)

    def _retract_death(self, incarnation_id: str) -> None:
        if self._lost is not None and self._lost.incarnation_id == incarnation_id:
            self._dispatcher.retract_death(self._lost.unfinished)
        self._lost = None
