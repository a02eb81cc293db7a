"""What a stream tells, in order: `Started`, `PromptLogprobs`, `Delta`s, and one `Finished` for each candidate."""

from dataclasses import dataclass

from .generation_config import GenerationConfig, short_repr
from .values import FinishReason, Timing, TokenLogprob, Usage


@dataclass(frozen=True, slots=True, repr=False)
class Started:
    """The generation has begun: its first token is there, or it has ended before."""

    model: str
    """Name of the model."""
    seed: int
    """The effective seed."""
    prompt_token_count: int
    """Tokens in the prompt, special ones included."""
    prompt_token_ids: tuple[int, ...] = ()
    """The prompt's token ids if both `echo` and `token_ids` were asked for, else empty."""
    server_request_id: str = ""
    """The server's own name for the call, by which its log tells of it."""

    __repr__ = short_repr


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """A part of the prompt's log-probabilities, if `prompt_logprobs` was asked for."""

    position: int
    """Position in the prompt of the first token in this part, from 1: the first token has none."""
    logprobs: tuple[TokenLogprob, ...]
    """One for each token."""


@dataclass(frozen=True, slots=True, repr=False)
class Delta:
    """Text that follows what came before. With `echo`, the first one of a candidate is the prompt."""

    text: str
    """Whole characters; may be empty if `token_ids` or `logprobs` was asked for."""
    token_ids: tuple[int, ...] = ()
    """The token ids behind the text, if asked for; they may come before their text."""
    candidate_index: int = 0
    """The candidate that it belongs to, from 0."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, if asked for; they may come before their text."""

    __repr__ = short_repr


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is needed to run a request again; see `Generation`."""

    model: str
    """Name of the model."""
    fingerprint: str
    """Identifies weights, quantization and compute type."""
    seed: int
    """The effective seed."""
    config: GenerationConfig
    """The effective value of every parameter."""
    worker: str
    """The worker that served the request; the last one, if it was moved."""
    attempt_count: int
    """How many workers have run the request."""
    resumed: bool
    """Whether the output was not made in one piece."""
    server_request_id: str
    """The server's own name for the call, by which its log tells of it."""
    stop_sequences: tuple[str, ...]
    """The stop sequences that were looked for."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A candidate has ended."""

    candidate_index: int
    """The candidate, from 0."""
    finish_reason: FinishReason
    """Why it ended."""
    stop_sequence: str
    """The stop sequence that ended it; empty if none did."""
    stop_token_id: int | None
    """The stop token, or end-of-sequence token, that ended it; None if none did."""
    seed: int
    """The seed of this candidate."""
    usage: Usage
    """Tokens read and written."""
    timing: Timing
    """Where the time went."""
    receipt: Receipt | None
    """What is needed to run the request again; in the stream's last message alone."""


Event = Started | PromptLogprobs | Delta | Finished
