"""Decides which generation goes to a worker next, and to which one. Pure: it is told what workers have room for.

Generations leave the queue from its head. One that needs more rows than any worker has free is set aside: it is sent as
soon as a worker has them, and until then nothing else is sent to the worker that is closest to it. Those behind it go
to the other workers; while there is one aside, the next one that does not fit lets all behind it wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .quarantine import Quarantine, Verdict
from .routing import WorkerLoad, has_room, pick, quietest, roomiest, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .generation import Generation
    from .queueing import Queue


@dataclass(frozen=True, slots=True)
class Assignment:
    """A generation that leaves what waits, and the worker that it goes to."""

    generation: Generation
    worker: str


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
    def row_count(self) -> int:
        """Rows of workers that those waiting will take."""
        return self._queue.row_count + self._quarantine.row_count

    def check_room(self) -> None:
        """Raises QUEUE_FULL if no more may wait."""
        self._queue.check_room()

    def append(self, generation: Generation) -> None:
        """Takes a new generation. Raises QUEUE_FULL if no more may wait."""
        self._queue.append(generation)

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

    def next(self, workers: Iterable[WorkerLoad]) -> Assignment | None:
        """The next generation, taken out, and its worker; None while nothing can be sent."""
        self._quarantine.settle(len(self._queue))
        if not len(self):
            return None
        shared = [worker for worker in workers if worker.name != self._quarantine.worker]
        if suspect := self._quarantine.due(len(self._queue)):
            return self._next_suspect(suspect, shared)
        self._make_way(shared)
        if aside := self._queue.aside:
            return self._next_aside(aside, shared)
        return self._next_head(shared)

    def _next_suspect(self, suspect: Generation, shared: list[WorkerLoad]) -> Assignment | None:
        held = quietest(shared)
        if held is None or held.outstanding:
            return self._next_head(_but(held, shared))
        self._quarantine.isolate(suspect)
        return Assignment(suspect, held.name)

    def _make_way(self, shared: list[WorkerLoad]) -> None:
        """Sets the head aside if it has to wait for more than the next free row."""
        head = self._queue.head()
        if head is None or self._queue.aside is not None:
            return
        row_count = rows_of(head)
        if row_count > 1 and pick(shared, row_count) is None:
            self._queue.set_aside(head)

    def _next_aside(self, aside: Generation, shared: list[WorkerLoad]) -> Assignment | None:
        held = roomiest(shared)
        if held is None or not has_room(held, rows_of(aside)):
            return self._next_head(_but(held, shared))
        return self._assign(aside, held)

    def _next_head(self, workers: list[WorkerLoad]) -> Assignment | None:
        head = self._queue.head()
        worker = None if head is None else pick(workers, rows_of(head))
        return None if head is None or worker is None else self._assign(head, worker)

    def _assign(self, generation: Generation, worker: WorkerLoad) -> Assignment:
        self._queue.remove(generation)
        self._quarantine.sent_another()
        return Assignment(generation, worker.name)


def _but(held: WorkerLoad | None, workers: list[WorkerLoad]) -> list[WorkerLoad]:
    return [worker for worker in workers if worker is not held]
