"""How long streams paused that lost their worker. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.chaos.events import Event, Stepped, Submitted
from tests.chaos.history import History, Request, Row


@dataclass(frozen=True, slots=True)
class Pause:
    """One stream's pause."""

    request: int
    whole_s: float
    """From the fault to the first token behind it, at the caller."""
    computing_s: float
    """What of it the next worker took from the submission to its first step with it: its queue and prefill."""

    @property
    def overhead_s(self) -> float:
        return self.whole_s - self.computing_s


def pauses(events: Iterable[Event], fault_at: float, workers: set[int]) -> list[Pause]:
    """The pauses of all streams that ran on `workers` when the fault came, and went on."""
    known = list(events)
    first_steps = _first_steps(known)
    history = History(known)
    found = (_pause(request, fault_at, workers, first_steps) for request in history.requests.values())
    return [pause for pause in found if pause is not None]


def _first_steps(events: Iterable[Event]) -> dict[tuple[int, int, int], float]:
    """When each row, named by worker, stream and sequence, made its first token."""
    steps: dict[tuple[int, int, int], float] = {}
    for event in events:
        if isinstance(event, Stepped):
            for sequence_id in event.sequence_ids:
                steps.setdefault((event.worker, event.stream, sequence_id), event.at)
    return steps


def _pause(
    request: Request, fault_at: float, workers: set[int], first_steps: dict[tuple[int, int, int], float]
) -> Pause | None:
    lost = [row for row in request.rows if _ran(row, fault_at, workers)]
    later = [row.submitted for row in request.rows if row.submitted.at > fault_at]
    if not lost or not later:
        return None
    stepped_at = first_steps.get(_name(later[-1]))
    delivered = [each.at for each in request.deliveries if stepped_at is not None and each.at >= stepped_at]
    if stepped_at is None or not delivered:
        return None
    return Pause(request.number, delivered[0] - fault_at, stepped_at - later[-1].at)


def _ran(row: Row, fault_at: float, workers: set[int]) -> bool:
    is_there = row.submitted.worker in workers and row.submitted.at <= fault_at
    return is_there and all(end.at > fault_at for end in row.ends)


def _name(submitted: Submitted) -> tuple[int, int, int]:
    return submitted.worker, submitted.stream, submitted.sequence_id
