"""Predicts how long an engine step takes, so that a hung one can be told from a long one. Pure.

The announced limit is ten times the prediction, and never below three seconds: noise and a slow neighbour must not look
like a hang. Predictions are the recent maximum, which decays slowly.
"""

from dataclasses import dataclass

from .plan import Plan

_FACTOR = 10.0
_LEAST_LIMIT_S = 3.0
_FIRST_LIMIT_S = 600.0
_DECAY = 0.99
_LEAST_TOKENS = 64


@dataclass(frozen=True)
class Work:
    """How much a step has to do."""

    decodes: bool
    prompt_tokens: int

    @classmethod
    def of(cls, plan: Plan) -> "Work":
        return cls(decodes=bool(plan.decoding), prompt_tokens=plan.prompt_tokens)


class Pace:
    """The recent speed of decode steps and of prefill."""

    def __init__(self) -> None:
        self._decode_s = 0.0
        self._prompt_token_s = 0.0

    def limit(self, work: Work) -> float:
        """Returns after how many seconds a step with this work counts as hung."""
        unknown = (work.decodes and not self._decode_s) or (work.prompt_tokens and not self._prompt_token_s)
        if unknown:
            return _FIRST_LIMIT_S
        predicted = self._decode_s * work.decodes + self._prompt_token_s * work.prompt_tokens
        return max(_LEAST_LIMIT_S, _FACTOR * predicted)

    def observe(self, work: Work, seconds: float) -> None:
        """Learns from a step that took `seconds`."""
        if work.prompt_tokens:
            prefill_s = max(0.0, seconds - self._decode_s * work.decodes)
            # A step has a fixed cost: that of a short prompt, times the tokens of a long one, would hide any hang.
            self._prompt_token_s = max(
                self._prompt_token_s * _DECAY, prefill_s / max(work.prompt_tokens, _LEAST_TOKENS)
            )
        elif work.decodes:
            self._decode_s = max(self._decode_s * _DECAY, seconds)
