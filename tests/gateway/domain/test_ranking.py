"""The best candidates are those with the highest mean log-probability."""

from gateway.domain.generation import best
from gateway.domain.sequence import Sequence, TokenLogprob
from tests.fakes import ids
from tests.gateway.generations import generation


def ranked(*logprobs: list[float]) -> list[Sequence]:
    """Candidates whose tokens have these log-probabilities."""
    sequences = generation(candidate_count=len(logprobs)).sequences
    for sequence, values in zip(sequences, logprobs, strict=True):
        for value in values:
            sequence.push(ids("a")[0], 1.0, TokenLogprob(value, 1))
    return list(sequences)


def order(sequences: list[Sequence], count: int) -> list[int]:
    return [sequence.candidate_index for sequence in best(sequences, count)]


def test_the_mean_counts_not_the_sum() -> None:
    assert order(ranked([-2.0], [-1.0, -1.0, -1.0], [-3.0]), 3) == [1, 0, 2]


def test_only_the_best_are_returned() -> None:
    assert order(ranked([-2.0], [-1.0], [-3.0]), 2) == [1, 0]


def test_of_equals_the_first_goes_first() -> None:
    assert order(ranked([-1.0], [-0.5, -1.5], [-1.0, -1.0], [-0.5]), 4) == [3, 0, 1, 2]


def test_a_candidate_without_a_token_goes_last() -> None:
    assert order(ranked([], [-100.0]), 2) == [1, 0]
