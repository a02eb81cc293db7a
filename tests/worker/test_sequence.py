"""How a sequence ends."""

import pytest

from worker.sequence import SamplingParameters, Sequence, Status

EOS = frozenset({1, 2})


def sequence(max_new_tokens: int) -> Sequence:
    return Sequence(0, [5], SamplingParameters(max_new_tokens=max_new_tokens))


@pytest.mark.parametrize(
    ("max_new_tokens", "tokens", "status"),
    [
        (3, [5, 6], Status.WAITING),
        (3, [5, 6, 7], Status.FINISHED_LENGTH),
        (3, [5, 2], Status.FINISHED_EOS),
        (1, [1], Status.FINISHED_EOS),
        (1, [5], Status.FINISHED_LENGTH),
    ],
)
def test_a_sequence_ends_with_its_last_token(max_new_tokens: int, tokens: list[int], status: Status) -> None:
    one = sequence(max_new_tokens)
    for token in tokens:
        assert not one.is_finished
        one.append(token, EOS)
    assert one.output == tokens
    assert one.status is status


def test_a_failed_sequence_says_why_and_has_ended() -> None:
    one = sequence(3)
    one.fail("NON_FINITE_LOGITS")
    assert one.is_finished
    assert (one.status, one.error) == (Status.FAILED, "NON_FINITE_LOGITS")


def test_three_statuses_are_alive_and_all_others_are_ends() -> None:
    alive = []
    for status in Status:
        one = sequence(1)
        one.status = status
        if not one.is_finished:
            alive.append(status)
    assert alive == [Status.WAITING, Status.PREFILLING, Status.RUNNING]


def test_sequences_with_equal_contents_are_different_sequences() -> None:
    assert sequence(1) != sequence(1)
