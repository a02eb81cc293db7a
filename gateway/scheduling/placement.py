"""Chooses the worker for a generation, and what makes way for it there. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..domain.tenancy import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..domain.generation import Generation
    from ..domain.request import ModelFacts

UNBOUNDED = sys.maxsize

MAX_PREEMPTIONS = 3
"""Each costs a prefill, and time: what has made way so often runs to its end."""


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What the gateway knows of one worker: rows submitted and not ended, of how many it may submit at most."""

    name: str
    outstanding: int
    limit: int
    served: int
    """Generations submitted to it so far: among equals the one that served less is next."""
    preemptible: int = 0
    """Rows outstanding that make way for interactive work."""
    preemptible_since: float = 0.0
    """When the last of those was submitted."""
    facts: ModelFacts | None = None
    """What it said of its model and its room; None: whatever is submitted fits there."""

    @property
    def room(self) -> int:
        """Rows that may be submitted now; below 0 after the limit was lowered."""
        return self.limit - self.outstanding


def is_preemptible(generation: Generation) -> bool:
    """Whether it is taken back from its worker when interactive work needs the room.

    Batch work is, but for beam searches, which would begin again, and for what has waited or made way enough.
    """
    return (
        generation.caller.priority is Priority.BATCH
        and generation.config.num_beams == 1
        and not generation.is_protected
        and generation.preemptions < MAX_PREEMPTIONS
    )


def fitting(workers: Iterable[WorkerLoad], generation: Generation) -> list[WorkerLoad]:
    """The workers that could run it if they had nothing else to do: those of one model may differ in their memories."""
    return [worker for worker in workers if worker.facts is None or generation.fits(worker.facts)]


def pick(workers: Iterable[WorkerLoad], row_count: int, most: int = UNBOUNDED) -> WorkerLoad | None:
    """The worker with the least work outstanding relative to its room.

    None if no worker has room for `row_count` more, of which it is taken to have `most` at most. Where several gateways
    share a worker, the share of one may be smaller than a request. Then the whole share must be free: what is beyond it
    waits at the worker.
    """
    roomy = [worker for worker in workers if worker.limit > 0 and not rows_short(worker, row_count, most)]
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


def preemptible(workers: Iterable[WorkerLoad], row_count: int, most: int = UNBOUNDED) -> WorkerLoad | None:
    """The worker that takes so many rows once others have made way: with the fewest to do so, and those begun last.

    None if there are not enough of them on any worker.
    """
    enough = [each for each in _able(workers) if each.preemptible >= rows_short(each, row_count, most)]
    return min(enough, key=lambda worker: _harm(worker, row_count, most), default=None)


def rows_short(worker: WorkerLoad, row_count: int, most: int = UNBOUNDED) -> int:
    """Rows that have to end on a worker before it takes so many, if `most` may be outstanding there at most."""
    limit = min(worker.limit, most)
    return max(0, min(row_count, limit) - limit + worker.outstanding)


def _harm(worker: WorkerLoad, row_count: int, most: int) -> tuple[int, float, str]:
    return rows_short(worker, row_count, most), -worker.preemptible_since, worker.name


def _able(workers: Iterable[WorkerLoad]) -> list[WorkerLoad]:
    return [worker for worker in workers if worker.limit > 0]


def _order(worker: WorkerLoad) -> tuple[float, int, str]:
    return worker.outstanding / worker.limit, worker.served, worker.name
