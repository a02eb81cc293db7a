"""A generation holds what its candidates share."""

from dataclasses import replace

import pytest

from gateway.domain.generation import Generation
from gateway.domain.request import OutputOptions
from gateway.domain.sequence import Status, TokenLogprob
from tests.fakes import ids
from tests.gateway.generations import generation

PROMPT = "abcdef"


def reporting() -> Generation:
    """A generation whose prompt's log-probabilities were asked for."""
    one = generation(prompt=PROMPT)
    one.output = OutputOptions(prompt_logprobs=True)
    return one


def entries(*values: int) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(-value / 4, value) for value in values)


def taken(one: Generation) -> tuple[int, list[tuple[int, int]]] | None:
    part = one.take_prompt_logprobs()
    return None if part is None else (part.position, [(token.token_id, token.logprob.rank) for token in part.tokens])


def test_parts_of_the_prompt_are_merged_until_they_are_taken() -> None:
    one = reporting()
    one.add_prompt_logprobs(1, entries(1, 2))
    one.add_prompt_logprobs(3, entries(3))

    assert taken(one) == (1, list(zip(ids("bcd"), (1, 2, 3), strict=True)))
    assert taken(one) is None
    one.add_prompt_logprobs(4, entries(4, 5))
    assert taken(one) == (4, list(zip(ids("ef"), (4, 5), strict=True)))


def test_they_are_asked_for_until_all_have_come() -> None:
    one = reporting()
    assert one.needs_prompt_logprobs
    one.add_prompt_logprobs(1, entries(1, 2))
    one.take_prompt_logprobs()
    assert one.needs_prompt_logprobs

    one.add_prompt_logprobs(3, entries(3, 4, 5))

    assert not one.needs_prompt_logprobs
    assert not generation(prompt=PROMPT).needs_prompt_logprobs


def test_what_another_worker_sends_again_is_taken_once() -> None:
    one = reporting()
    one.add_prompt_logprobs(1, entries(1, 2))
    one.take_prompt_logprobs()

    one.add_prompt_logprobs(1, entries(1))
    one.add_prompt_logprobs(2, entries(2, 3, 4))

    assert taken(one) == (3, list(zip(ids("de"), (3, 4), strict=True)))


@pytest.mark.parametrize(("position", "count"), [(2, 1), (0, 1), (1, 6)])
def test_parts_that_leave_a_gap_or_exceed_the_prompt_are_refused(position: int, count: int) -> None:
    with pytest.raises(ValueError, match="log-probabilities at"):
        reporting().add_prompt_logprobs(position, entries(*range(1, count + 1)))


def test_what_has_ended_is_not_begun_again() -> None:
    one = generation(candidate_count=2)
    ended, other = one.sequences
    one.submit("worker-0", now=1.0)
    ended.finish(Status.LENGTH)

    one.requeue()
    assert (ended.status, other.status, one.worker) == (Status.LENGTH, Status.QUEUED, "")
    one.submit("worker-1", now=2.0)

    assert (ended.status, other.status) == (Status.LENGTH, Status.PREFILLING)
    assert (one.worker, one.attempts, one.unfinished) == ("worker-1", 2, (other,))


def test_a_beam_search_takes_the_rows_of_all_its_beams() -> None:
    one = generation(candidate_count=2)
    assert one.row_count == 2

    one.config = replace(one.config, num_beams=5, num_return_sequences=2)

    assert one.row_count == 5


def test_candidates_that_have_ended_take_no_row() -> None:
    one = generation(candidate_count=3)
    assert one.row_count == 3

    one.sequences[1].finish(Status.LENGTH)

    assert one.row_count == 2


def test_the_timing_is_that_of_the_candidate_that_went_on_longest() -> None:
    one = generation(candidate_count=2)
    one.submit("worker-0", now=1.0)
    for sequence, last_at in zip(one.sequences, (3.0, 5.0), strict=True):
        sequence.push(ids("a")[0], 2.0)
        sequence.push(ids("a")[0], last_at)

    assert one.timing(now=9.0).decode_s == 3.0
