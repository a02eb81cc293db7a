"""What a stream tells, in order: one `Started`, then `Delta`s, then one `Finished` for each candidate."""

from dataclasses import dataclass

from .values import FinishReason, GenerationConfig, Timing, Usage


@dataclass(frozen=True, slots=True)
class Started:
    """The request has been admitted."""

    model: str
    """Name of the model."""
    seed: int
    """The effective seed."""
    prompt_token_count: int
    """Tokens in the prompt, special ones included."""
    prompt_token_ids: tuple[int, ...] = ()
    """The prompt's token ids if both `echo` and `token_ids` were asked for, else empty."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that follows what came before. With `echo`, the first one of a candidate is the prompt."""

    text: str
    """Whole characters; may be empty if `token_ids` was asked for."""
    token_ids: tuple[int, ...] = ()
    """The token ids behind the text, if asked for; they may come before their text."""
    candidate_index: int = 0
    """The candidate that it belongs to, from 0."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A candidate has ended."""

    candidate_index: int
    """The candidate, from 0."""
    finish_reason: FinishReason
    """Why it ended."""
    stop_sequence: str
    """The stop sequence that ended it; empty if none did."""
    usage: Usage
    """Tokens read and written."""
    timing: Timing
    """Where the time went."""
    fingerprint: str
    """Identifies weights, quantization and compute type."""
    config: GenerationConfig
    """The effective value of every sampling parameter."""
    worker: str
    """The worker that served the request."""


Event = Started | Delta | Finished
