"""Predicts how long an engine step takes, so that a hung one can be told from a long one. Pure.

The announced limit is ten times the prediction, and never below three seconds: noise and a slow neighbour must not look
like a hang. A step has a fixed cost, of seconds where weights are fetched anew each time, and one for each token of a
prompt that it reads. Both are the recent maximum, which decays slowly.
"""

from dataclasses import dataclass

from ..domain.plan import Plan

_FACTOR = 10.0
_LEAST_LIMIT_S = 3.0
_FIRST_LIMIT_S = 600.0
_DECAY = 0.99
_TELLING_TOKENS = 64
"""A step that reads fewer is mostly fixed cost: as that of each token, it would hide any hang in a long prompt."""


@dataclass(frozen=True)
class Work:
    """How much a step has to do."""

    decodes: bool
    prompt_tokens: int

    @classmethod
    def of(cls, plan: Plan) -> "Work":
        return cls(decodes=bool(plan.decoding), prompt_tokens=plan.prompt_tokens)


class Pace:
    """What steps have cost lately."""

    def __init__(self) -> None:
        self._step_s = 0.0
        """What a step takes that reads next to nothing; at first, what the first one took. 0 until seen."""
        self._prompt_token_s: float | None = None

    def limit(self, work: Work) -> float:
        """Returns after how many seconds a step with this work counts as hung."""
        token_s = self._prompt_token_s if work.prompt_tokens else 0.0
        if not self._step_s or token_s is None:
            return _FIRST_LIMIT_S
        predicted = self._step_s + token_s * work.prompt_tokens
        return max(_LEAST_LIMIT_S, _FACTOR * predicted)

    def observe(self, work: Work, seconds: float) -> None:
        """Learns from a step that took `seconds`."""
        if work.prompt_tokens:
            token_s = max(0.0, seconds - self._step_s) / max(work.prompt_tokens, _TELLING_TOKENS)
            self._prompt_token_s = max((self._prompt_token_s or 0.0) * _DECAY, token_s)
        computes = work.decodes or work.prompt_tokens > 0
        if not self._step_s or (computes and work.prompt_tokens < _TELLING_TOKENS):
            self._step_s = max(self._step_s * _DECAY, seconds)
