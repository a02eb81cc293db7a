"""How a sequence ends."""

import pytest

from worker.domain.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence, Status, reported


def sequence(max_new_tokens: int) -> Sequence:
    eos, stops = frozenset({1, 2}), frozenset({2, 9})
    return Sequence(0, [5], SamplingParameters(max_new_tokens, eos_token_ids=eos, stop_token_ids=stops))


def beams(*candidates: Sequence) -> Beams:
    return Beams(3, 1.0, EarlyStopping.HEURISTIC, list(candidates))


@pytest.mark.parametrize(
    ("max_new_tokens", "tokens", "status"),
    [
        (3, [5, 6], Status.WAITING),
        (3, [5, 6, 7], Status.FINISHED_LENGTH),
        (3, [5, 2], Status.FINISHED_EOS),
        (1, [1], Status.FINISHED_EOS),
        (3, [5, 9], Status.FINISHED_STOP_TOKEN),
        (1, [9], Status.FINISHED_STOP_TOKEN),
        (1, [5], Status.FINISHED_LENGTH),
    ],
)
def test_a_sequence_ends_with_its_last_token(max_new_tokens: int, tokens: list[int], status: Status) -> None:
    one = sequence(max_new_tokens)
    for token in tokens:
        assert not one.is_finished
        one.append(token)
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


@pytest.mark.parametrize(
    ("tokens", "status"),
    [
        ([5, 6, 1], Status.FINISHED_EOS),
        ([9], Status.FINISHED_STOP_TOKEN),
        ([5, 6], Status.FINISHED_LENGTH),
        ([5] * 4, Status.FINISHED_LENGTH),
    ],
)
def test_the_last_token_of_a_beam_searchs_result_says_why_it_ended(tokens: list[int], status: Status) -> None:
    one = sequence(4)
    one.conclude(tokens, -0.5)
    assert (one.output, one.score, one.status) == (tokens, -0.5, status)


def test_the_rows_of_a_beam_search_have_ended_when_all_its_candidates_have() -> None:
    first, second = sequence(4), sequence(4)
    rows = beams(first, second).rows()
    first.status = Status.CANCELLED
    assert not any(row.is_finished for row in rows)
    second.status = Status.FINISHED_EOS
    assert all(row.is_finished for row in rows)


def test_rows_are_reported_as_themselves_and_those_of_a_beam_search_as_its_candidates_once() -> None:
    alone, candidate = sequence(4), sequence(4)
    assert reported([*beams(candidate).rows(), alone]) == [candidate, alone]


def test_a_root_lets_go_of_the_rows_that_have_ended() -> None:
    ended, alive = sequence(4), sequence(4)
    ended.status = Status.CANCELLED
    root = Root([5], [ended, alive])
    assert root.prune()
    assert root.sequences == [alive]
    alive.status = Status.CANCELLED
    assert not root.prune()


def test_only_a_root_of_several_sequences_that_are_no_beams_can_be_divided() -> None:
    assert Root([5], [sequence(1), sequence(1)]).is_divisible
    assert not Root([5], [sequence(1)]).is_divisible
    assert not Root([5], beams(sequence(1)).rows()).is_divisible
