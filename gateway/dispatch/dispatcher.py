"""Brings generations from the queue to workers with room. It runs on the event loop and never waits.

Whatever happens asks for a pass, and one pass sees to all that a turn of the event loop has brought: it takes in what
workers have done, ends what has expired, sends what fits, and tells the workers how much is left.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from ..domain.errors import ServiceError, deadline_exceeded, draining, internal, no_worker, poison_request, worker_lost
from ..domain.generation import Generation
from ..domain.request import ModelFacts
from ..domain.sequence import Status
from ..domain.tenancy import Caller
from ..scheduling.admission_control import AdmissionControl
from ..scheduling.outliers import OutlierDetector
from ..scheduling.scheduler import Scheduler
from ..workers.run_stream import SendBuffer
from .in_flight import InFlight
from .no_worker_timer import NoWorkerTimer

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
        self._no_worker_timer = NoWorkerTimer(worker_wait_s, self._give_up)
        self._in_flight: dict[str, InFlight] = {}
        self._running: set[Generation] = set()
        self._draining = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._due: asyncio.Handle | None = None
        """The pass that has been asked for."""
        self._depth = 0
        """Rows that waited when the last pass was over; whatever came later has asked for another one."""
        self._settling: asyncio.TimerHandle | None = None

    @property
    def queued_count(self) -> int:
        return len(self._scheduler)

    @property
    def running_count(self) -> int:
        """Generations that were submitted and not detached."""
        return len(self._running)

    @property
    def utilization(self) -> float:
        """Rows that run and wait, relative to those that workers take; 0 without any."""
        row_count, limit = self._scheduler.work.row_count, 0
        for each in self._in_flight.values():
            row_count += each.outstanding
            limit += each.limit
        return row_count / limit if limit else 0.0

    @property
    def worker_count(self) -> int:
        """Workers that take work."""
        return sum(not each.draining for each in self._in_flight.values())

    @property
    def has_unfinished(self) -> bool:
        """Whether anything runs or waits."""
        return any(not generation.finished for generation in self._running)

    def check_open(self) -> None:
        """Raises ServiceError if a generation would not be taken now: DRAINING or NO_WORKER."""
        if self._draining:
            raise draining()
        if not self._in_flight and not self._no_worker_timer.is_running:
            raise no_worker()

    def preparing(self, caller: Caller) -> AbstractContextManager[None]:
        """Counts a call among those that wait while it becomes a generation.

        Raises ServiceError as `check_open` and `AdmissionControl.preparing` do: what has come in the same turn of the
        event loop counts only as far as the workers have no room for it.
        """
        self.check_open()
        if self._due is not None:
            self._catch_up()
        return self._admission.preparing(caller)

    def submit(self, generation: Generation) -> None:
        """Takes a generation, which must be detached later. Raises as `check_open` and `AdmissionControl.admit` do.

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

    def finish(self, generation: Generation, status: Status) -> None:
        """Ends a generation before its time, still to be delivered and detached; its rows become free at once."""
        self._let_go(generation)
        generation.finish(status)
        generation.on_change()

    def fail(self, generation: Generation, error: ServiceError) -> None:
        """Ends a generation with an error, still to be detached; its rows become free at once."""
        self._let_go(generation)
        generation.fail(error)

    def detach(self, generation: Generation, status: Status) -> None:
        """Knows a generation no more: if it has not finished, it ends with `status` and its rows become free."""
        self._running.discard(generation)
        if not self._running:
            self._idle.set()
        self._let_go(generation)
        generation.finish(status)

    def open(self, worker: str, buffer: SendBuffer, facts: ModelFacts | None = None) -> InFlight:
        """The account of a worker, and where it puts what the worker is to be told; it gets no work before `add`."""
        return InFlight(worker, buffer, facts)

    def add(self, in_flight: InFlight) -> None:
        """A worker takes work now."""
        if former := self._in_flight.get(in_flight.worker):
            self.remove(former, "it has come back", died=True)
        self._in_flight[in_flight.worker] = in_flight
        self._no_worker_timer.stop()
        self.workers_changed()

    def remove(self, in_flight: InFlight, why: str, *, died: bool) -> list[Generation]:
        """A worker is gone, by a death or in peace: what it has not finished waits for another one, and is returned."""
        if self._in_flight.get(in_flight.worker) is not in_flight:
            return []
        self._catch_up()
        del self._in_flight[in_flight.worker]
        self._admission.observe_loss()
        if not self._in_flight and not self._closed:
            self._no_worker_timer.start(in_flight.worker, why)
        unfinished = self._requeue(in_flight, died=died)
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
                self.fail(generation, _lost(generation, "none that is left has the room for it"))
        self.wake()

    def stepped(self, in_flight: InFlight) -> None:
        """A worker has told the outcome of steps.

        As long as nothing waits, tokens and ends change nothing: the next pass is early enough for them. It is not for
        what has begun or failed, as it counts when that was.
        """
        if self._depth or in_flight.progress.starts or in_flight.progress.failure_count:
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
                self.fail(generation, draining())

    async def wait_idle(self) -> None:
        """Returns once everything has been detached."""
        await self._idle.wait()

    def close(self) -> None:
        """Ends with DRAINING what has not ended; whoever leaves then is not waited for."""
        self._closed = True
        for generation in tuple(self._running):
            self.fail(generation, draining())
        self._no_worker_timer.stop()
        self._end_settling()

    def _pass(self) -> None:
        """Sees to what has happened since the last one."""
        self._due = None
        if self._closed:
            return
        now = self._clock()
        self._take_in_progress(now)
        if len(self._scheduler):
            self._expire(now)
            self._place(now)
        self._report_queue_depth()

    def _catch_up(self) -> None:
        """Does now what the next pass would: what is decided next must see the queue as it is."""
        if self._due is not None:
            self._due.cancel()
            self._pass()
        else:
            self._take_in_progress(self._clock())

    def _take_in_progress(self, now: float) -> None:
        """Takes in what the workers have done."""
        for each in self._in_flight.values():
            progress = each.take_progress()
            if progress is None:
                continue
            for generation, token_count in progress.token_counts.items():
                self._scheduler.queue.charge(generation.caller, token_count)
            if progress.starts:
                self._outliers.begun(each.worker, len(progress.starts), now)
            if progress.failure_count:
                self._outliers.failed(each.worker, progress.failure_count, now)
            for generation, prefill_s in progress.starts:
                self._admission.observe_start(generation, prefill_s)
            for _ in range(progress.end_count):
                self._admission.observe_end(now)

    def _expire(self, now: float) -> None:
        """Ends what has waited beyond its deadline."""
        for generation in self._scheduler.expire(now):
            limit_s = 0.0 if generation.deadline_at is None else generation.deadline_at - generation.arrived_at
            generation.fail(deadline_exceeded(limit_s, "queue"))

    def _place(self, now: float) -> None:
        """Sends to the workers what they have room for."""
        workers = self._in_flight.values()
        if self._settling is not None or all(each.takes_nothing for each in workers):
            return  # this is asked after each step, and while much waits it is mostly so
        ejected = self._outliers.ejected([each.worker for each in workers if not each.draining], now)
        able = [each for each in workers if each.worker not in ejected]
        while len(self._scheduler) and (next_ := self._scheduler.next([each.load for each in able], now)):
            in_flight = self._in_flight[next_.worker]
            for preempted in in_flight.preempt(next_.rows_short):
                preempted.preempt()
                self._scheduler.queue.restore(preempted)
            try:
                in_flight.submit(next_.generation, now)
            except Exception:
                # A pass is everybody's: what can't be sent ends alone.
                logger.exception("request %s can't be sent", next_.generation.server_request_id)
                self.fail(next_.generation, internal())

    def _report_queue_depth(self) -> None:
        """Tells the workers how many rows wait for any of them."""
        self._depth = self._scheduler.work.row_count
        for each in self._in_flight.values():
            each.buffer.report_queue_depth(self._depth)

    def _requeue(self, in_flight: InFlight, *, died: bool) -> list[Generation]:
        unfinished = in_flight.close()
        for generation in unfinished:
            generation.requeue()
        guilty = self._scheduler.requeue(unfinished, died=died)
        if unfinished:
            logger.warning("%s leaves %d unfinished requests to others", in_flight.worker, len(unfinished))
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

    def _let_go(self, generation: Generation) -> None:
        """Lets it wait no more, or run no more."""
        in_flight = self._in_flight.get(generation.worker)
        if self._scheduler.remove(generation) or (in_flight and in_flight.detach(generation)):
            self.wake()

    def _fits_nowhere(self, generation: Generation) -> bool:
        """Whether there are workers, and none of them could ever run it. It would keep what waits behind it, too."""
        return bool(self._in_flight) and not any(
            each.facts is None or generation.fits(each.facts) for each in self._in_flight.values()
        )

    def _give_up(self, worker: str, why: str) -> None:
        logger.error("%s was lost: %s; %d waiting requests end", worker, why, len(self._scheduler))
        for generation in tuple(self._scheduler):
            self.fail(generation, _lost(generation, why))


def _lost(generation: Generation, why: str) -> ServiceError:
    """Why it ends without a worker: it has lost the one that it had, or no worker has begun it."""
    # Tokens alone say nothing: its caller may have brought them.
    was_begun = generation.deaths or (generation.attempts and generation.output_token_count)
    return worker_lost(generation.last_worker, why) if was_begun else no_worker()
