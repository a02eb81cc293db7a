"""Beam search for one request: which continuations to follow, which have ended, and when to stop.

The contract: tokens, order and scores are those of transformers' `generate(num_beams=...)` without sampling, on the
same prompt alone. The caller runs the model and the logits processors, and moves its rows as `parents` says; this
module knows log-probabilities and token ids, but neither rows, prompts nor the model.

The method is the left-to-right beam search of Sutskever et al. 2014 (Sequence to Sequence Learning with Neural
Networks, section 3.2), with the bookkeeping of `GenerationMixin._beam_search` in transformers 5; its rule of when to
stop is argued in transformers' pull request 20901.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..domain.sequence import EarlyStopping
from ..memory.copies import on_device

_COPY_SCORE = -1e9
"""Score at which all beams but the first begin: they are copies of it, and count only where it alone has too few
continuations. transformers' own value."""
_LARGEST_EXPONENT = 600.0
"""Keeps the normalizer, and quotients by it, within the range of a float."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that the search has found."""

    tokens: list[int]
    """The end-of-sequence token included, unless max_new_tokens ended it."""
    score: float
    """Sum of the tokens' log-probabilities over length ** length_penalty."""


@dataclass(frozen=True, slots=True)
class _Beam:
    parent: int
    tokens: list[int]
    score: float
    """Sum of the tokens' log-probabilities."""


class _Continuation(NamedTuple):
    score: float
    parent: int
    token: int


class BeamSearch:
    """The state of one search.

    Args:
        num_beams: how many beams run, at least 1.
        num_return_sequences: how many hypotheses are wanted, 1 to num_beams.
        length_penalty: exponent of the length by which a score is divided.
        early_stopping: when to end.
        max_new_tokens: most tokens of a hypothesis, at least 1.
        eos_token_ids: every id that ends a sequence, the request's stop tokens included; may be empty.
    """

    def __init__(
        self,
        *,
        num_beams: int,
        num_return_sequences: int,
        length_penalty: float,
        early_stopping: EarlyStopping,
        max_new_tokens: int,
        eos_token_ids: frozenset[int],
    ) -> None:
        self._num_beams = num_beams
        self._num_return_sequences = num_return_sequences
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping
        self._max_new_tokens = max_new_tokens
        self._eos_token_ids = eos_token_ids
        self._length = 0
        self._running = [_Beam(beam, [], _COPY_SCORE if beam else 0.0) for beam in range(num_beams)]
        self._finished: list[Hypothesis] = []

    @property
    def parents(self) -> list[int]:
        """Which of the beams before the last step each running beam continues, best first.

        num_beams entries, until the search is done. Where fewer beams can go on, the last ones are what must not come
        up, follow for company and are never found.
        """
        return [beam.parent for beam in self._running]

    @property
    def outputs(self) -> list[list[int]]:
        """The tokens of each running beam so far, in the order of `parents`; the last one is to be fed next."""
        return [list(beam.tokens) for beam in self._running]

    @property
    def is_done(self) -> bool:
        """Whether the search has ended; at the latest after max_new_tokens steps."""
        return not self._can_go_on or self._is_settled()

    def step(self, log_probs: Tensor) -> bool:
        """Gives each beam its next token: takes the best continuations of all beams together.

        Returns whether it is stuck: no beam has any, and nothing has been found yet. Then nothing has happened, and the
        step is to be taken again with other log-probabilities.

        Args:
            log_probs: [num_beams, vocabulary], float32, after the logits processors, in the order of `parents`;
                at the first step all rows are the same. -inf masks a token; NaN is not allowed.
        """
        continuations = self._continuations(log_probs)
        if not self._finished and continuations[0].score == -math.inf:
            return True
        self._length += 1
        # Endings below the best num_beams do not count; they are there so that num_beams others remain to go on.
        ended = [self._hypothesis(self._extend(each)) for each in continuations[: self._num_beams] if self._ends(each)]
        running = [each for each in continuations if not self._ends(each)][: self._num_beams]
        self._finished = self._best(self._finished + ended)
        self._running = [self._extend(each) for each in running]
        return False

    def hypotheses(self) -> list[Hypothesis]:
        """Returns num_return_sequences hypotheses, best first; the last one again where there are too few.

        Before the search is done, the running beams count as if they ended here: what a limit of time leaves.
        """
        unfinished = [] if self.is_done else [self._hypothesis(beam) for beam in self._running]
        found = self._best(self._finished + unfinished)[: self._num_return_sequences]
        return found + found[-1:] * (self._num_return_sequences - len(found))

    @property
    def _can_go_on(self) -> bool:
        return bool(self._running) and self._running[0].score > -math.inf

    def _continuations(self, log_probs: Tensor) -> list[_Continuation]:
        """Returns the best ones, best first: so many that num_beams go on even if each beam ends in every way."""
        scores = log_probs + on_device([[beam.score] for beam in self._running], log_probs.device, log_probs.dtype)
        count = self._num_beams * (1 + len(self._eos_token_ids))
        best = scores.flatten().topk(min(count, scores.numel()))
        # One copy for both; a float64 holds every float32 and every index exactly.
        values, places = torch.stack((best.values.double(), best.indices.double())).tolist()
        vocabulary = log_probs.shape[1]
        return [
            _Continuation(value, *divmod(int(place), vocabulary)) for value, place in zip(values, places, strict=True)
        ]

    def _ends(self, continuation: _Continuation) -> bool:
        return self._length >= self._max_new_tokens or continuation.token in self._eos_token_ids

    def _extend(self, continuation: _Continuation) -> _Beam:
        tokens = [*self._running[continuation.parent].tokens, continuation.token]
        return _Beam(continuation.parent, tokens, continuation.score)

    def _hypothesis(self, beam: _Beam) -> Hypothesis:
        return Hypothesis(beam.tokens, self._normalized(beam.score, len(beam.tokens)))

    def _normalized(self, score: float, length: int) -> float:
        """Returns score / length ** length_penalty, finite for every finite score."""
        exponent = self._length_penalty * math.log(max(length, 1))
        return score / math.exp(min(max(exponent, -_LARGEST_EXPONENT), _LARGEST_EXPONENT))

    def _best(self, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
        possible = [hypothesis for hypothesis in hypotheses if hypothesis.score > -math.inf]
        return sorted(possible, key=lambda hypothesis: hypothesis.score, reverse=True)[: self._num_beams]

    def _is_settled(self) -> bool:
        """Whether num_beams hypotheses have finished and early_stopping lets them stand."""
        if len(self._finished) < self._num_beams:
            return False
        if self._early_stopping is EarlyStopping.FIRST:
            return True
        lengthens = self._early_stopping is EarlyStopping.NEVER and self._length_penalty > 0
        length = self._max_new_tokens if lengthens else self._length
        return self._normalized(self._running[0].score, length) <= self._finished[-1].score
