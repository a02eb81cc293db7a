"""Names of sequences towards the workers. Pure.

A step has log-probabilities for those tokens only whose sequence asked for them, and a worker's last tokens of a
sequence may come when this gateway has let go of it. So its id tells whether they have any: the odd ones do.
"""

from itertools import count


class SequenceIds:
    """Gives out ids, each once, to whatever thread."""

    def __init__(self) -> None:
        self._counts = count(1)

    def next(self, *, has_logprobs: bool) -> int:
        """An id for a sequence whose tokens come with, or without, log-probabilities. At least 2."""
        return 2 * next(self._counts) + has_logprobs


def has_logprobs(sequence_id: int) -> bool:
    """Whether a sequence's tokens come with log-probabilities."""
    return sequence_id % 2 == 1
