"""What client, gateways and workers record of a run, as values and as lines of a file. Pure.

Times are seconds of the monotonic clock, which all processes of a machine share. A request is named by its seed, which
the caller chooses and which reaches the worker; a process by its number.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """A caller sends a request."""

    at: float
    request: int
    prompt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """A caller gets a delta."""

    at: float
    request: int
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Left:
    """A caller cancels."""

    at: float
    request: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A call has ended for its caller."""

    at: float
    request: int
    outcome: str
    """A finish reason, "cancelled", or an error as CODE/REASON."""
    output_token_count: int = 0
    """As the usage says; 0 after an error."""
    attempts: int = 0
    """As the receipt says; 0 after an error."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A gateway has taken a request."""

    at: float
    gateway: int
    request: int


@dataclass(frozen=True, slots=True)
class Released:
    """A gateway lets go of a request."""

    at: float
    gateway: int
    request: int
    status: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a gateway holds at one moment."""

    at: float
    gateway: int
    queued_count: int
    running_count: int
    task_count: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A worker grants a gateway room on its stream; a stream's first grant opens it."""

    at: float
    worker: int
    stream: int
    sequence_limit: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """A sequence reaches a worker, with the tokens that it has so far."""

    at: float
    worker: int
    stream: int
    sequence_id: int
    request: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stepped:
    """A worker sends what steps made: a sequence id beside each token, and the sequences that ended."""

    at: float
    worker: int
    stream: int
    sequence_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finished: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A cancel reaches a worker."""

    at: float
    worker: int
    stream: int
    sequence_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """A stream has ended at its worker, and everything on it is dropped."""

    at: float
    worker: int
    stream: int


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's heartbeat: whether its engine is at work."""

    at: float
    worker: int
    busy: bool


@dataclass(frozen=True, slots=True)
class Killed:
    """The run has ended a process without asking it."""

    at: float
    process: int


Event = (
    Asked | Delivered | Left | Ended | Admitted | Released | Held | Granted | Submitted | Stepped | Dropped | Closed
    | Beat | Killed
)  # fmt: skip
_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Asked, Delivered, Left, Ended, Admitted, Released, Held, Granted, Submitted, Stepped, Dropped, Closed, Beat,
        Killed,
    )
}  # fmt: skip


def to_line(event: Event) -> str:
    """One line of JSON, without its end."""
    return json.dumps([type(event).__name__, asdict(event)], separators=(",", ":"))


def from_line(line: str) -> Event:
    """Reads what `to_line` wrote. Raises ValueError, KeyError or TypeError if it is anything else."""
    kind, values = json.loads(line)
    return _KINDS[kind](**{name: _plain(value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
