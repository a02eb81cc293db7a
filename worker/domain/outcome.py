"""What one engine step made, for those who wait for it."""

from dataclasses import dataclass, field

from .sequence import Root, Sequence


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model itself found a token."""

    logprob: float
    rank: int
    """1 for the likeliest token; equals share the best of their ranks."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with their log-probabilities, likeliest first, the lower id first of equals."""


@dataclass(frozen=True)
class Output:
    """What a step made for one sequence: tokens, an end, or both."""

    sequence: Sequence
    tokens: tuple[int, ...] = ()
    """The new tokens: one, or all of them where a beam search has ended; none if the sequence failed."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, if asked for."""


@dataclass(frozen=True)
class PromptPart:
    """Log-probabilities of a part of a prompt."""

    root: Root
    """Whose prompt it is."""
    sequence: Sequence
    """The first one of those that share the prompt."""
    position: int
    """Where the part begins, from 1: nothing predicts the token at 0."""
    logprobs: list[TokenLogprob]


@dataclass(frozen=True)
class Outcome:
    """What one step made."""

    outputs: list[Output] = field(default_factory=list)
    prompt_parts: list[PromptPart] = field(default_factory=list)
