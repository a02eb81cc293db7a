"""Chooses the worker for the next generation. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What the gateway knows of one worker: sequences submitted and not ended, of how many it may submit at most."""

    name: str
    outstanding: int
    limit: int
    served: int
    """Generations submitted to it so far: among equals the one that served less is next."""


def pick(workers: Iterable[WorkerLoad], sequence_count: int) -> WorkerLoad | None:
    """The worker with the least work outstanding relative to its room.

    None if no worker has room for `sequence_count` more.
    """
    roomy = (worker for worker in workers if worker.outstanding + sequence_count <= worker.limit)
    return min(roomy, key=_order, default=None)


def _order(worker: WorkerLoad) -> tuple[float, int, str]:
    return worker.outstanding / worker.limit, worker.served, worker.name
