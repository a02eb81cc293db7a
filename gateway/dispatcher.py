"""Brings generations from the queue to workers with room. It runs on the event loop and never waits."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from .errors import ServiceError, draining, no_worker, poison_request, worker_lost
from .generation import Generation
from .outage import Outage
from .queueing import RETRY_AFTER_S
from .scheduler import Scheduler
from .sequence import Status
from .session import Session

logger = logging.getLogger(__name__)

# Workers that are ended together are all seen to be gone within this time. Until then nothing is sent: what one of them
# left would go to the next, and count as present at both deaths.
SETTLING_S = 0.05


class Dispatcher:
    """Late binding: a generation stays with the scheduler until a worker has room for it.

    What a lost worker leaves unfinished is not failed: it waits again, and goes on elsewhere behind its last token.

    Args:
        scheduler: What waits.
        worker_wait_s: How long generations wait for a worker to come back after the last one was lost.
        clock: Seconds of a monotonic clock.
        on_workers_changed: Called with the number of workers that take work, whenever it may have changed.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        worker_wait_s: float,
        clock: Callable[[], float],
        on_workers_changed: Callable[[int], None],
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._on_workers_changed = on_workers_changed
        self._outage = Outage(worker_wait_s, self._give_up)
        self._sessions: dict[str, Session] = {}
        self._running: set[Generation] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._settling: asyncio.TimerHandle | None = None

    @property
    def queued_count(self) -> int:
        return len(self._scheduler)

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
        if not self._sessions and not self._outage.lasts:
            raise no_worker(RETRY_AFTER_S)
        self._scheduler.check_room()

    def submit(self, generation: Generation) -> None:
        """Takes a generation, which must be released later. Raises as `check_open`."""
        self.check_open()
        self._scheduler.append(generation)
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
        if former := self._sessions.get(session.worker):
            self.remove(former, "it has come back", died=True)
        self._sessions[session.worker] = session
        self._outage.end()
        self.workers_changed()

    def remove(self, session: Session, why: str, *, died: bool) -> list[Generation]:
        """A worker is gone, by a death or in peace: what it has not finished waits for another one, and is returned."""
        if self._sessions.get(session.worker) is not session:
            return []
        del self._sessions[session.worker]
        if not self._sessions:
            self._outage.begin(session.worker, why)
        unfinished = self._take_back(session, died=died)
        if died:
            self._settle()
        self.workers_changed()
        return unfinished

    def acquit(self, generations: Iterable[Generation]) -> None:
        """Their worker, which was thought dead, has been found alive."""
        self._scheduler.acquit(generations)
        self.dispatch()

    def workers_changed(self) -> None:
        """A worker came, went, or drains."""
        self._on_workers_changed(self.worker_count)
        self.dispatch()

    def dispatch(self) -> None:
        """Submits as long as a worker has room, and tells the workers what is left."""
        sessions = self._sessions.values()
        while self._settling is None and (assignment := self._scheduler.next(session.load for session in sessions)):
            self._sessions[assignment.worker].submit(assignment.generation, self._clock())
        for session in sessions:
            session.tell_demand(self._scheduler.row_count)

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
        self._outage.end()
        self._end_settling()

    def _take_back(self, session: Session, *, died: bool) -> list[Generation]:
        unfinished = session.close()
        for generation in unfinished:
            generation.requeue()
        guilty = self._scheduler.take_back(unfinished, died=died)
        if unfinished:
            logger.warning("%s leaves %d unfinished requests to others", session.worker, len(unfinished))
        for generation in guilty:
            logger.error("request %d has ended worker after worker", generation.sequences[0].sequence_id)
            generation.fail(poison_request())
        return unfinished

    def _settle(self) -> None:
        self._end_settling()
        self._settling = asyncio.get_running_loop().call_later(SETTLING_S, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self.dispatch()

    def _end_settling(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    def _withdraw(self, generation: Generation) -> None:
        if not self._scheduler.remove(generation) and (session := self._sessions.get(generation.worker)):
            session.drop(generation)

    def _give_up(self, worker: str, why: str) -> None:
        logger.error("%s was lost: %s; %d waiting requests end", worker, why, len(self._scheduler))
        for generation in tuple(self._scheduler):
            was_begun = generation.deaths or generation.output_token_count
            self.abandon(generation, worker_lost(worker, why) if was_begun else no_worker(RETRY_AFTER_S))
