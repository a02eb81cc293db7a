"""Which candidates are returned where more are generated. Pure."""

import math
from collections.abc import Iterable

from .sequence import Sequence


def best(sequences: Iterable[Sequence], count: int) -> list[Sequence]:
    """The `count` sequences with the highest mean log-probability of their tokens, best first.

    Of equals the one with the lower index goes first; one without any token goes last.
    """
    return sorted(sequences, key=_badness)[:count]


def _badness(sequence: Sequence) -> tuple[float, int]:
    mean = sequence.mean_logprob
    return (math.inf if mean is None else -mean, sequence.candidate_index)
