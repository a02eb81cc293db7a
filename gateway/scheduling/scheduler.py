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

from ..domain.tenancy import Priority
from .placement import UNBOUNDED, WorkerLoad, fitting, lacking, pick, quietest, roomiest, yielding
from .preemption import makes_way
from .quarantine import Quarantine, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..domain.generation import Generation
    from ..domain.tenancy import Caller
    from .backlog import Backlog
    from .queue import Queue


@dataclass(frozen=True, slots=True)
class Assignment:
    """A generation that leaves what waits, and the worker that it goes to."""

    generation: Generation
    worker: str
    lacking: int = 0
    """Rows of batch work that have to make way there first."""


class Scheduler:
    """Everything that waits for a worker: the queue, and suspects in quarantine.

    Args:
        queue: The central queue.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._quarantine = Quarantine()

    def __len__(self) -> int:
        return len(self._queue) + len(self._quarantine.waiting)

    def __iter__(self) -> Iterator[Generation]:
        return iter([*self._quarantine.waiting, *self._queue])

    @property
    def load(self) -> Backlog:
        """All that waits."""
        return self._queue.load + self._quarantine.load if self._quarantine.waiting else self._queue.load

    def tenant_load(self, tenant: str) -> Backlog:
        """What waits of one tenant, but for suspects."""
        return self._queue.tenant_load(tenant)

    def backlog(self, caller: Caller, due: float | None = None) -> Backlog:
        """What stands before a new generation; see `Queue.backlog`."""
        return self._queue.backlog(caller, due)

    def append(self, generation: Generation) -> None:
        """Takes a new generation."""
        self._queue.append(generation)

    def restore(self, generation: Generation) -> None:
        """Takes back what has made way for others."""
        self._queue.restore(generation)

    def charge(self, caller: Caller, token_count: int) -> None:
        """Counts tokens that were generated for a caller."""
        self._queue.charge(caller, token_count)

    def take_back(self, generations: Iterable[Generation], *, died: bool) -> list[Generation]:
        """Takes what a worker that was lost, by a death or in peace, has not finished; returns what ends workers."""
        guilty: list[Generation] = []
        for generation in generations:
            match self._quarantine.judge(generation, died=died):
                case Verdict.INNOCENT:
                    self._queue.restore(generation)
                case Verdict.SUSPECT:
                    self._quarantine.add(generation)
                case Verdict.GUILTY:
                    guilty.append(generation)
        return guilty

    def acquit(self, generations: Iterable[Generation]) -> None:
        """The worker that they were on had not died."""
        for generation in generations:
            if self._quarantine.acquit(generation):
                self._queue.restore(generation)

    def remove(self, generation: Generation) -> bool:
        """Takes it out. False if it was not waiting."""
        return self._queue.remove(generation) or self._quarantine.remove(generation)

    def expire(self, now: float) -> list[Generation]:
        """Takes out those whose deadline has passed."""
        return [*self._quarantine.expire(now), *self._queue.expire(now)]

    def next(self, workers: Iterable[WorkerLoad], now: float) -> Assignment | None:
        """The next generation, taken out, and its worker; None while nothing can be sent."""
        self._quarantine.settle(len(self._queue))
        if not len(self):
            return None
        shared = [worker for worker in workers if worker.name != self._quarantine.worker]
        if suspect := self._quarantine.due(len(self._queue)):
            return self._next_suspect(suspect, shared, now)
        self._make_way(shared, now)
        if aside := self._queue.aside:
            held = roomiest(fitting(shared, aside))
            return self._place(aside, shared, now) or self._next_head(_but(held, shared), now)
        return self._next_head(shared, now)

    def _next_suspect(self, suspect: Generation, shared: list[WorkerLoad], now: float) -> Assignment | None:
        held = quietest(fitting(shared, suspect))
        if held is None or held.outstanding:
            return self._next_head(_but(held, shared), now)
        self._quarantine.isolate(suspect)
        return Assignment(suspect, held.name)

    def _make_way(self, shared: list[WorkerLoad], now: float) -> None:
        """Sets the head aside if it has to wait for more than the next free row."""
        self._queue.reconsider_aside()
        head = self._queue.head(now)
        if head is None or self._queue.aside is not None:
            return
        if head.row_count > 1 and _pick(shared, head) is None:
            self._queue.set_aside(head, now)

    def _next_head(self, workers: list[WorkerLoad], now: float) -> Assignment | None:
        head, best = self._queue.head(now), self._queue.best
        if head is None or best is None:
            return None
        # What waits for its turn to take a free row does not keep interactive work from taking one of batch work.
        return self._place(head, workers, now) or self._preempt(best, workers, best.facts.max_rows, now)

    def _place(self, generation: Generation, workers: list[WorkerLoad], now: float) -> Assignment | None:
        if assignment := self._preempt(generation, workers, generation.facts.max_rows, now):
            return assignment
        worker = _pick(workers, generation)
        if worker is None:
            return self._preempt(generation, workers, UNBOUNDED, now)
        return self._assign(Assignment(generation, worker.name), now)

    def _preempt(self, generation: Generation, workers: list[WorkerLoad], most: int, now: float) -> Assignment | None:
        """Sends interactive work where it finds room once batch work has made way, if it does not do so by itself."""
        if generation.caller.priority is not Priority.INTERACTIVE or pick(
            fitting(workers, generation), generation.row_count, most
        ):
            return None
        worker = yielding(fitting(workers, generation), generation.row_count, most)
        if worker is None:
            return None
        return self._assign(Assignment(generation, worker.name, lacking(worker, generation.row_count, most)), now)

    def _assign(self, assignment: Assignment, now: float) -> Assignment:
        self._queue.send(assignment.generation, now)
        self._quarantine.sent_another()
        return assignment


def _pick(workers: list[WorkerLoad], generation: Generation) -> WorkerLoad | None:
    # What makes way is not sent where it would wait in the way.
    most = generation.facts.max_rows if makes_way(generation) else UNBOUNDED
    return pick(fitting(workers, generation), generation.row_count, most)


def _but(held: WorkerLoad | None, workers: list[WorkerLoad]) -> list[WorkerLoad]:
    return [worker for worker in workers if worker is not held]
