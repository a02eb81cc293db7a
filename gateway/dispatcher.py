"""Brings generations from the queue to workers with room. It runs on the event loop and never waits."""

import asyncio
import logging
from collections.abc import Callable

from .errors import ServiceError, draining, no_worker
from .generation import Generation
from .queueing import RETRY_AFTER_S, Queue
from .routing import pick
from .sequence import Status
from .session import Session

logger = logging.getLogger(__name__)


class Dispatcher:
    """Late binding: a generation stays in the central queue until a worker has room for it.

    Args:
        queue: The central queue.
        worker_wait_s: How long generations wait for a worker to come back after the last one was lost.
        clock: Seconds of a monotonic clock.
        on_workers_changed: Called with the number of workers that take work, whenever it may have changed.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        worker_wait_s: float,
        clock: Callable[[], float],
        on_workers_changed: Callable[[int], None],
    ) -> None:
        self._queue = queue
        self._worker_wait_s = worker_wait_s
        self._clock = clock
        self._on_workers_changed = on_workers_changed
        self._sessions: dict[str, Session] = {}
        self._running: set[Generation] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._giving_up: asyncio.TimerHandle | None = None

    @property
    def queued_count(self) -> int:
        return len(self._queue)

    @property
    def running_count(self) -> int:
        """Generations that were submitted and not released."""
        return len(self._running)

    @property
    def worker_count(self) -> int:
        """Workers that take work."""
        return sum(not session.draining for session in self._sessions.values())

    def check_open(self) -> None:
        """Raises ServiceError if a generation would not be taken now: DRAINING, NO_WORKER or QUEUE_FULL."""
        if self._draining:
            raise draining()
        if not self._sessions and self._giving_up is None:
            raise no_worker(RETRY_AFTER_S)
        self._queue.check_room()

    def submit(self, generation: Generation) -> None:
        """Takes a generation, which must be released later. Raises as `check_open`."""
        self.check_open()
        self._queue.append(generation)
        self._running.add(generation)
        self._idle.clear()
        self.dispatch()

    def release(self, generation: Generation, status: Status) -> None:
        """Lets go of a generation: if it has not finished, it ends with `status` and its rows become free."""
        self._running.discard(generation)
        if not self._running:
            self._idle.set()
        self._withdraw(generation)
        generation.finish(status)
        self.dispatch()

    def abandon(self, generation: Generation, error: ServiceError) -> None:
        """Ends a generation with an error; its rows become free at once."""
        self._withdraw(generation)
        generation.fail(error)
        self.dispatch()

    def add(self, session: Session) -> None:
        """A worker takes work now."""
        self._sessions[session.worker] = session
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        self.workers_changed()

    def remove(self, session: Session, why: str) -> None:
        """A worker is gone: what it ran fails, what it never began is queued again."""
        if self._sessions.get(session.worker) is not session:
            return
        del self._sessions[session.worker]
        # Each goes to the head: the last one first keeps their order.
        for generation in reversed(session.close(why)):
            generation.requeue()
            self._queue.restore(generation)
        if not self._sessions:
            self._giving_up = asyncio.get_running_loop().call_later(self._worker_wait_s, self._give_up)
        self.workers_changed()

    def workers_changed(self) -> None:
        """A worker came, went, or drains."""
        self._on_workers_changed(self.worker_count)
        self.dispatch()

    def dispatch(self) -> None:
        """Submits from the head of the queue as long as a worker has room, and tells the workers what is left."""
        while (generation := self._queue.head()) is not None:
            load = pick((session.load for session in self._sessions.values()), len(generation.sequences))
            if load is None:
                break
            self._queue.remove(generation)
            self._sessions[load.name].submit(generation, self._clock())
        for session in self._sessions.values():
            session.tell_demand(len(self._queue))

    def drain(self) -> None:
        """Refuses what comes from now on."""
        self._draining = True

    async def wait_idle(self) -> None:
        """Returns once everything has been released."""
        await self._idle.wait()

    def close(self) -> None:
        """Ends with DRAINING what has not ended."""
        for generation in tuple(self._running):
            self.abandon(generation, draining())
        if self._giving_up is not None:
            self._giving_up.cancel()

    def _withdraw(self, generation: Generation) -> None:
        if not self._queue.remove(generation) and (session := self._sessions.get(generation.worker)):
            session.drop(generation)

    def _give_up(self) -> None:
        self._giving_up = None
        logger.error("no worker for %g s: %d waiting requests end", self._worker_wait_s, len(self._queue))
        for generation in self._queue:
            self.abandon(generation, no_worker(RETRY_AFTER_S))
