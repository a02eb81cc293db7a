"""The connection to one worker: kept up as long as the worker is meant to be there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc import aio

from textserve.internal.v1.worker_pb2_grpc import WorkerServiceStub

from .handshake import HandshakeError, shake_hands
from .liveness import Liveness
from .models import ModelMismatchError
from .pool.backoff import Backoff, BackoffPolicy
from .transport import worker_channel_options
from .worker_stream import WorkerStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

    from .dispatcher import Dispatcher
    from .generation import Generation
    from .models import Models
    from .pool import WorkerAddress

logger = logging.getLogger(__name__)

RECONNECT = BackoffPolicy(initial_s=0.1, max_s=5.0, reset_after_s=10.0)


@dataclass(frozen=True, slots=True)
class _Lost:
    """What ran in a process when it was taken for dead. Whether it was shows when one answers again."""

    incarnation_id: str
    unfinished: tuple[Generation, ...]


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
        self._lost: _Lost | None = None
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
            self._acquit(description.incarnation_id)
            return await self._serve(stub, description.incarnation_id)

    async def _serve(self, stub: WorkerServiceAsyncStub, incarnation_id: str) -> str:
        liveness = Liveness(incarnation_id, self._clock())
        ending = await WorkerStream(self._address.name, self._dispatcher, liveness, self._clock).serve(stub)
        if ending.counted_as_death:
            self._lost = _Lost(incarnation_id, ending.unfinished)
        return ending.why

    def _acquit(self, incarnation_id: str) -> None:
        if self._lost is not None and self._lost.incarnation_id == incarnation_id:
            self._dispatcher.acquit(self._lost.unfinished)
        self._lost = None
