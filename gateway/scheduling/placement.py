"""Chooses the worker for a generation. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..domain.generation import Generation
    from ..domain.request import ModelFacts

UNBOUNDED = sys.maxsize


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What the gateway knows of one worker: rows submitted and not ended, of how many it may submit at most."""

    name: str
    outstanding: int
    limit: int
    served: int
    """Generations submitted to it so far: among equals the one that served less is next."""
    yielding: int = 0
    """Rows outstanding that make way for interactive work."""
    yielding_begun_at: float = 0.0
    """When the last of those was submitted."""
    facts: ModelFacts | None = None
    """What it said of its model and its room; None: whatever is submitted fits there."""

    @property
    def room(self) -> int:
        """Rows that may be submitted now; below 0 after the limit was lowered."""
        return self.limit - self.outstanding


def fitting(workers: Iterable[WorkerLoad], generation: Generation) -> list[WorkerLoad]:
    """The workers that could run it if they had nothing else to do: those of one model may differ in their memories."""
    return [worker for worker in workers if worker.facts is None or generation.fits(worker.facts)]


def pick(workers: Iterable[WorkerLoad], row_count: int, most: int = UNBOUNDED) -> WorkerLoad | None:
    """The worker with the least work outstanding relative to its room.

    None if no worker has room for `row_count` more, of which it is taken to have `most` at most.
    """
    roomy = (worker for worker in workers if has_room(worker, row_count, most))
    return min(roomy, key=_order, default=None)


def roomiest(workers: Iterable[WorkerLoad]) -> WorkerLoad | None:
    """The worker to hold for a generation of many rows: as long as nothing else is sent there its room only grows.

    None if no worker takes anything.
    """
    return max(_able(workers), key=lambda worker: (worker.room, worker.name), default=None)


def quietest(workers: Iterable[WorkerLoad]) -> WorkerLoad | None:
    """The worker to hold for a generation that is to be alone: the one with the fewest rows to wait for.

    None if no worker takes anything.
    """
    return min(_able(workers), key=lambda worker: (worker.outstanding, worker.name), default=None)


def has_room(worker: WorkerLoad, row_count: int, most: int = UNBOUNDED) -> bool:
    """Whether a worker takes so many rows now.

    Where several gateways share a worker, the share of one may be smaller than a request. Then the whole share must be
    free: what is beyond it waits at the worker.
    """
    return worker.limit > 0 and not lacking(worker, row_count, most)


def yielding(workers: Iterable[WorkerLoad], row_count: int, most: int = UNBOUNDED) -> WorkerLoad | None:
    """The worker that takes so many rows once others have made way: with the fewest to do so, and those begun last.

    None if there are not enough of them on any worker.
    """
    enough = (worker for worker in workers if worker.limit > 0 and worker.yielding >= lacking(worker, row_count, most))
    return min(enough, key=lambda worker: _harm(worker, row_count, most), default=None)


def lacking(worker: WorkerLoad, row_count: int, most: int = UNBOUNDED) -> int:
    """Rows that have to end on a worker before it takes so many, if `most` may be outstanding there at most."""
    limit = min(worker.limit, most)
    return max(0, min(row_count, limit) - limit + worker.outstanding)


def _harm(worker: WorkerLoad, row_count: int, most: int) -> tuple[int, float, str]:
    return lacking(worker, row_count, most), -worker.yielding_begun_at, worker.name


def _able(workers: Iterable[WorkerLoad]) -> Iterable[WorkerLoad]:
    return (worker for worker in workers if worker.limit > 0)


def _order(worker: WorkerLoad) -> tuple[float, int, str]:
    return worker.outstanding / worker.limit, worker.served, worker.name
