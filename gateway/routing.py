"""Chooses the worker for a generation. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .generation import Generation


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What the gateway knows of one worker: rows submitted and not ended, of how many it may submit at most."""

    name: str
    outstanding: int
    limit: int
    served: int
    """Generations submitted to it so far: among equals the one that served less is next."""

    @property
    def room(self) -> int:
        """Rows that may be submitted now; below 0 after the limit was lowered."""
        return self.limit - self.outstanding


def rows_of(generation: Generation) -> int:
    """Rows of a worker that a generation takes: its beams, else its candidates, but for those that have ended."""
    return generation.row_count - (len(generation.sequences) - len(generation.unfinished))


def pick(workers: Iterable[WorkerLoad], row_count: int) -> WorkerLoad | None:
    """The worker with the least work outstanding relative to its room.

    None if no worker has room for `row_count` more.
    """
    roomy = (worker for worker in workers if has_room(worker, row_count))
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


def has_room(worker: WorkerLoad, row_count: int) -> bool:
    """Whether a worker takes so many rows now.

    Where several gateways share a worker, the share of one may be smaller than a request. Then the whole share must be
    free: what is beyond it waits at the worker.
    """
    return worker.limit > 0 and worker.room >= min(row_count, worker.limit)


def _able(workers: Iterable[WorkerLoad]) -> Iterable[WorkerLoad]:
    return (worker for worker in workers if worker.limit > 0)


def _order(worker: WorkerLoad) -> tuple[float, int, str]:
    return worker.outstanding / worker.limit, worker.served, worker.name
