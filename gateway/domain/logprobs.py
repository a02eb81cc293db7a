"""How likely tokens were, as plain values. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """What a worker says about one token.

    Logarithms are natural, of the softmax of the model's unmodified logits; ranks count from 1; `top` has the likeliest
    tokens with their log-probabilities, likeliest first.
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ReportedToken:
    """A token with its log-probability, as the answer reports it.

    text_offset counts the characters of the candidate's text that were complete before the token. Behind a stop
    sequence's beginning it counts on, so it may lie behind the end of the text that is delivered.
    """

    token_id: int
    text_offset: int
    logprob: TokenLogprob


@dataclass(frozen=True, slots=True)
class PromptPart:
    """Consecutive tokens of a prompt; `position` is that of the first one, from 1."""

    position: int
    tokens: tuple[ReportedToken, ...]
