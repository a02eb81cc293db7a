"""Decides which generation goes to a worker next, and to which one. Pure: it is told what workers have room for.

Generations leave the queue from its head. One that needs more rows than any worker has free is set aside: it is sent as
soon as a worker has them, and until then nothing else is sent to the worker that is closest to it. Those behind it go
to the other workers; while there is one aside, the next one that does not fit lets all behind it wait.

A worker takes more than it runs at once, so that no row that falls free is idle. Batch work is not sent there to wait:
interactive work that finds no row free takes one of batch work, and would come behind what waits there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..domain.tenancy import Priority, TenantPolicy
from .placement import UNBOUNDED, WorkerLoad, fitting, is_preemptible, pick, preemptible, quietest, roomiest, rows_short
from .quarantine import Quarantine, Verdict
from .queue import QueuedWork, RequestQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..domain.generation import Generation

_EQUALS = TenantPolicy()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A generation that leaves what waits, and the worker that it goes to."""

    generation: Generation
    worker: str
    rows_short: int = 0
    """Rows of batch work that have to make way there first."""


class Scheduler:
    """Everything that waits for a worker: the queue, and suspects in quarantine.

    Args:
        policy: The weights of the tenants.
    """

    def __init__(self, policy: TenantPolicy = _EQUALS) -> None:
        self.queue = RequestQueue(policy)
        """What waits in the usual order: what is new is appended here, and charged for what it is served."""
        self._quarantine = Quarantine()

    def __len__(self) -> int:
        return len(self.queue) + len(self._quarantine.waiting)

    def __iter__(self) -> Iterator[Generation]:
        return iter([*self._quarantine.waiting, *self.queue])

    @property
    def work(self) -> QueuedWork:
        """All that waits."""
        return self.queue.work + self._quarantine.work if self._quarantine.waiting else self.queue.work

    def requeue(self, generations: Iterable[Generation], *, died: bool) -> list[Generation]:
        """Takes what a worker that was lost, by a death or in peace, has not finished; returns what ends workers."""
        guilty: list[Generation] = []
        for generation in generations:
            match self._quarantine.judge(generation, died=died):
                case Verdict.INNOCENT:
                    self.queue.restore(generation)
                case Verdict.SUSPECT:
                    self._quarantine.add(generation)
                case Verdict.GUILTY:
                    guilty.append(generation)
        return guilty

    def retract_death(self, generations: Iterable[Generation]) -> None:
        """The worker that they were on had not died."""
        for generation in generations:
            if self._quarantine.retract_death(generation):
                self.queue.restore(generation)

    def remove(self, generation: Generation) -> bool:
        """Takes it out. False if it was not waiting."""
        return self.queue.remove(generation) or self._quarantine.remove(generation)

    def expire(self, now: float) -> list[Generation]:
        """Takes out those whose deadline has passed."""
        return [*self._quarantine.expire(now), *self.queue.expire(now)]

    def next(self, workers: list[WorkerLoad], now: float) -> Assignment | None:
        """The next generation, taken out, and its worker; None while nothing can be sent."""
        quarantine, queued_count = self._quarantine, len(self.queue)
        if not quarantine.is_idle:
            quarantine.settle(queued_count)
            workers = [worker for worker in workers if worker.name != quarantine.worker]
            if suspect := quarantine.next_suspect(queued_count):
                return self._next_suspect(suspect, workers, now)
        self._set_large_head_aside(workers, now)
        if aside := self.queue.aside:
            if assignment := self._place(aside, workers, now):
                return assignment
            workers = _but(roomiest(fitting(workers, aside)), workers)
        return self._next_head(workers, now)

    def _next_suspect(self, suspect: Generation, workers: list[WorkerLoad], now: float) -> Assignment | None:
        held = quietest(fitting(workers, suspect))
        if held is None or held.outstanding:
            return self._next_head(_but(held, workers), now)
        self._quarantine.isolate(suspect)
        return Assignment(suspect, held.name)

    def _set_large_head_aside(self, workers: list[WorkerLoad], now: float) -> None:
        """Sets the head aside if it has to wait for more than the next free row."""
        self.queue.reconsider_aside()
        if self.queue.aside is not None or (head := self.queue.head(now)) is None:
            return
        if head.row_count > 1 and _pick(fitting(workers, head), head) is None:
            self.queue.set_aside(head, now)

    def _next_head(self, workers: list[WorkerLoad], now: float) -> Assignment | None:
        head = self.queue.head(now)
        if head is None:
            return None
        if assignment := self._place(head, workers, now):
            return assignment
        # What waits for its turn to take a free row does not keep interactive work from taking one of batch work.
        best = self.queue.best
        return self._preempt(best, fitting(workers, best), best.facts.max_rows, now) if best else None

    def _place(self, generation: Generation, workers: list[WorkerLoad], now: float) -> Assignment | None:
        able = fitting(workers, generation)
        if assignment := self._preempt(generation, able, generation.facts.max_rows, now):
            return assignment
        worker = _pick(able, generation)
        if worker is None:
            return self._preempt(generation, able, UNBOUNDED, now)
        return self._assign(Assignment(generation, worker.name), now)

    def _preempt(self, generation: Generation, able: list[WorkerLoad], most: int, now: float) -> Assignment | None:
        """Sends interactive work where it finds room once batch work has made way, if it does not do so by itself."""
        if generation.caller.priority is not Priority.INTERACTIVE or pick(able, generation.row_count, most):
            return None
        worker = preemptible(able, generation.row_count, most)
        if worker is None:
            return None
        short = rows_short(worker, generation.row_count, most)
        return self._assign(Assignment(generation, worker.name, short), now)

    def _assign(self, assignment: Assignment, now: float) -> Assignment:
        self.queue.send(assignment.generation, now)
        if not self._quarantine.is_idle:
            self._quarantine.sent_another()
        return assignment


def _pick(able: list[WorkerLoad], generation: Generation) -> WorkerLoad | None:
    # What makes way is not sent where it would wait in the way.
    most = generation.facts.max_rows if is_preemptible(generation) else UNBOUNDED
    return pick(able, generation.row_count, most)


def _but(held: WorkerLoad | None, workers: list[WorkerLoad]) -> list[WorkerLoad]:
    return [worker for worker in workers if worker is not held]
