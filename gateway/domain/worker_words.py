"""What a worker says, as plain values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .request import ModelFacts
    from .sequence import Status, TokenLogprob


@dataclass(frozen=True, slots=True)
class Description:
    """What a worker says about itself and its model."""

    facts: ModelFacts
    incarnation_id: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """How long a sequence took to its first token, in seconds."""

    sequence_id: int
    wait_s: float
    prefill_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a sequence; `error` is set if the status is FAILED, `score` after a beam search."""

    sequence_id: int
    status: Status
    error: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of engine steps; `sequence_ids`, `token_ids` and, unless empty, `logprobs` run in parallel."""

    sequence_ids: Sequence[int]
    token_ids: Sequence[int]
    starts: tuple[Start, ...] = ()
    finishes: tuple[Finish, ...] = ()
    logprobs: tuple[TokenLogprob | None, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of consecutive prompt tokens of a submission, which its first sequence stands for.

    `position` is that of the first one, from 1.
    """

    sequence_id: int
    position: int
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Credits:
    """Most sequences that may be outstanding."""

    sequence_limit: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker says of itself every second. An idle engine has limit and elapsed 0."""

    incarnation_id: str
    step: int
    step_limit_s: float
    step_elapsed_s: float


@dataclass(frozen=True, slots=True)
class Draining:
    """The worker takes nothing new."""


Event = Step | PromptLogprobs | Credits | Heartbeat | Draining
"""What comes on a worker's stream."""
