"""Brings generations from the queue to workers with room. It runs on the event loop and never waits.

Whatever happens asks for a pass, and one pass sees to all that a turn of the event loop has brought: it takes in what
workers have done, ends what has expired, sends what fits, and tells the workers how much is left.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from ..domain.errors import ServiceError, deadline_exceeded, draining, no_worker, poison_request, worker_lost
from ..domain.generation import Generation
from ..domain.sequence import Status
from ..scheduling.admission_control import AdmissionControl
from ..scheduling.outliers import OutlierDetector
from ..scheduling.scheduler import Assignment, Scheduler
from .in_flight import Session
from .no_worker_timer import Outage

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
        admission: Asked before a generation is taken, and told what it learns the workers' speed from.
        outliers: Is told how generations fare, and knows which workers fail far more than the others.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        worker_wait_s: float,
        clock: Callable[[], float],
        on_workers_changed: Callable[[int], None],
        admission: AdmissionControl,
        outliers: OutlierDetector,
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._admission = admission
        self._outliers = outliers
        self._on_workers_changed = on_workers_changed
        self._outage = Outage(worker_wait_s, self._give_up)
        self._sessions: dict[str, Session] = {}
        self._running: set[Generation] = set()
        self._draining = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._due: asyncio.Handle | None = None
        """The pass that has been asked for."""
        self._settling: asyncio.TimerHandle | None = None

    @property
    def queued_count(self) -> int:
        return len(self._scheduler)

    @property
    def running_count(self) -> int:
        """Generations that were submitted and not released."""
        return len(self._running)

    @property
    def utilization(self) -> float:
        """Rows that run and wait, relative to those that workers take; 0 without any."""
        loads = [session.load for session in self._sessions.values()]
        limit = sum(load.limit for load in loads)
        row_count = self._scheduler.work.row_count + sum(load.outstanding for load in loads)
        return row_count / limit if limit else 0.0

    @property
    def worker_count(self) -> int:
        """Workers that take work."""
        return sum(not session.draining for session in self._sessions.values())

    @property
    def has_unfinished(self) -> bool:
        """Whether anything runs or waits."""
        return any(not generation.finished for generation in self._running)

    def check_open(self) -> None:
        """Raises ServiceError if a generation would not be taken now: DRAINING or NO_WORKER."""
        if self._draining:
            raise draining()
        if not self._sessions and not self._outage.lasts:
            raise no_worker()

    def submit(self, generation: Generation) -> None:
        """Takes a generation, which must be released later. Raises as `check_open` and `AdmissionControl.admit` do.

        One that has ended, because its caller holds all of it, goes to no worker. One that was admitted for a worker
        that has left meanwhile, and fits none that is there, is refused with NO_WORKER.
        """
        self.check_open()
        if not generation.finished:
            if self._fits_nowhere(generation):
                raise no_worker()
            self._catch_up()
            self._admission.admit(generation, self._clock())
            self._scheduler.queue.append(generation)
            self.wake()
        self._running.add(generation)
        self._idle.clear()
        if generation.finished:
            generation.on_change()

    def release(self, generation: Generation, status: Status) -> None:
        """Lets go of a generation: if it has not finished, it ends with `status` and its rows become free."""
        self._running.discard(generation)
        if not self._running:
            self._idle.set()
        self._withdraw(generation)
        generation.finish(status)

    def end(self, generation: Generation, status: Status) -> None:
        """Ends a generation before its time, still to be delivered and released; its rows become free at once."""
        self._withdraw(generation)
        generation.finish(status)
        generation.on_change()

    def abandon(self, generation: Generation, error: ServiceError) -> None:
        """Ends a generation with an error; its rows become free at once."""
        self._withdraw(generation)
        generation.fail(error)

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
        self._catch_up()
        del self._sessions[session.worker]
        self._admission.observe_loss()
        if not self._sessions and not self._closed:
            self._outage.begin(session.worker, why)
        unfinished = self._take_back(session, died=died)
        if died and not self._closed:
            self._settle()
        self.workers_changed()
        return unfinished

    def retract_death(self, generations: Iterable[Generation]) -> None:
        """Their worker, which was thought dead, has been found alive."""
        self._scheduler.retract_death(generations)
        self.wake()

    def workers_changed(self) -> None:
        """A worker came, went, or drains."""
        self._on_workers_changed(self.worker_count)
        for generation in tuple(self._scheduler):
            if self._fits_nowhere(generation):
                self.abandon(generation, _lost(generation, "none that is left has the room for it"))
        self.wake()

    def stepped(self, session: Session) -> None:
        """A worker has told the outcome of steps.

        Tokens and ends change nothing as long as nothing waits: the next pass is early enough for them.
        """
        if session.has_news or len(self._scheduler):
            self.wake()

    def wake(self) -> None:
        """Asks for a pass: one sees to all that the running turn of the event loop brings. None once it is closed."""
        if self._due is None and not self._closed:
            self._due = asyncio.get_running_loop().call_soon(self._pass)

    def drain(self) -> None:
        """Refuses what comes from now on, and what was never sent to a worker: another gateway may have room for it."""
        self._draining = True
        for generation in tuple(self._scheduler):
            if not generation.attempts:
                self.abandon(generation, draining())

    async def wait_idle(self) -> None:
        """Returns once everything has been released."""
        await self._idle.wait()

    def close(self) -> None:
        """Ends with DRAINING what has not ended; whoever leaves then is not waited for."""
        self._closed = True
        for generation in tuple(self._running):
            self.abandon(generation, draining())
        self._outage.end()
        self._end_settling()

    def _pass(self) -> None:
        self._due = None
        if self._closed:
            return
        now = self._clock()
        self._take_in_progress(now)
        if len(self._scheduler):
            self._expire(now)
            self._send_what_fits(now)
        row_count = self._scheduler.work.row_count
        for session in self._sessions.values():
            session.tell_demand(row_count)

    def _catch_up(self) -> None:
        """Does now what the next pass would: what is decided next must see the queue as it is."""
        if self._due is not None:
            self._due.cancel()
            self._pass()
        else:
            self._take_in_progress(self._clock())

    def _take_in_progress(self, now: float) -> None:
        """Takes in what the workers have done."""
        for session in self._sessions.values():
            if not session.has_progress:
                continue
            progress = session.take_progress()
            for generation, token_count in progress.token_counts.items():
                self._scheduler.queue.charge(generation.caller, token_count)
            if progress.starts:
                self._outliers.begun(session.worker, len(progress.starts), now)
            if progress.failure_count:
                self._outliers.failed(session.worker, progress.failure_count, now)
            for generation, prefill_s in progress.starts:
                self._admission.observe_start(generation, prefill_s)
            for _ in range(progress.end_count):
                self._admission.observe_end(now)

    def _expire(self, now: float) -> None:
        for generation in self._scheduler.expire(now):
            limit_s = 0.0 if generation.deadline_at is None else generation.deadline_at - generation.arrived_at
            generation.fail(deadline_exceeded(limit_s, "queue"))

    def _send_what_fits(self, now: float) -> None:
        sessions = self._sessions.values()
        if self._settling is not None or all(each.takes_nothing for each in sessions):
            return  # this is asked after each step, and while much waits it is mostly so
        ejected = self._outliers.ejected([each.worker for each in sessions if not each.draining], now)
        able = [each for each in sessions if each.worker not in ejected]
        while len(self._scheduler) and (next_ := self._scheduler.next([each.load for each in able], now)):
            self._send(next_, now)

    def _send(self, assignment: Assignment, now: float) -> None:
        session = self._sessions[assignment.worker]
        for preempted in session.preempt(assignment.rows_short):
            preempted.preempt()
            self._scheduler.queue.restore(preempted)
        session.submit(assignment.generation, now)

    def _take_back(self, session: Session, *, died: bool) -> list[Generation]:
        unfinished = session.close()
        for generation in unfinished:
            generation.requeue()
        guilty = self._scheduler.requeue(unfinished, died=died)
        if unfinished:
            logger.warning("%s leaves %d unfinished requests to others", session.worker, len(unfinished))
        for generation in guilty:
            logger.error("request %s has ended worker after worker", generation.server_request_id)
            generation.fail(poison_request())
        return unfinished

    def _settle(self) -> None:
        self._end_settling()
        self._settling = asyncio.get_running_loop().call_later(SETTLING_S, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self.wake()

    def _end_settling(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    def _withdraw(self, generation: Generation) -> None:
        session = self._sessions.get(generation.worker)
        if self._scheduler.remove(generation) or (session and session.drop(generation)):
            self.wake()

    def _fits_nowhere(self, generation: Generation) -> bool:
        """Whether there are workers, and none of them could ever run it. It would keep what waits behind it, too."""
        return bool(self._sessions) and not any(
            session.facts is None or generation.fits(session.facts) for session in self._sessions.values()
        )

    def _give_up(self, worker: str, why: str) -> None:
        logger.error("%s was lost: %s; %d waiting requests end", worker, why, len(self._scheduler))
        for generation in tuple(self._scheduler):
            self.abandon(generation, _lost(generation, why))


def _lost(generation: Generation, why: str) -> ServiceError:
    """Why it ends without a worker: it has lost the one that it had, or no worker has begun it."""
    # Tokens alone say nothing: its caller may have brought them.
    was_begun = generation.deaths or (generation.attempts and generation.output_token_count)
    return worker_lost(generation.last_worker, why) if was_begun else no_worker()
