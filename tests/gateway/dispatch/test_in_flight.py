"""What is in flight hands tokens to their sequences and keeps account of what is outstanding."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.in_flight import InFlight, Progress
from gateway.domain.request import OutputOptions
from gateway.domain.sequence import Status, TokenLogprob
from gateway.domain.worker_words import Finish, PromptLogprobs, Start, Step
from gateway.scheduling.placement import pick, preemptible
from gateway.workers.run_stream import SendBuffer
from tests.fakes import ids
from tests.gateway.callers import batch, interactive
from tests.gateway.generations import generation


def in_flight(limit: int = 8) -> InFlight:
    made = InFlight("worker-0", SendBuffer())
    made.row_limit = limit
    return made


def taken_from(worker: InFlight) -> Progress:
    """What it has done since the last time: something."""
    progress = worker.take_progress()
    assert progress is not None
    return progress


def step(sequence_id: int, text: str, finish: Status | None = None, error: str = "") -> Step:
    tokens = ids(text)
    finishes = (Finish(sequence_id, finish, error),) if finish is not None else ()
    return Step([sequence_id] * len(tokens), tokens, finishes=finishes)


async def test_outstanding_is_what_was_submitted_and_has_not_ended() -> None:
    one, other, worker = generation(), generation(candidate_count=2), in_flight()
    worker.submit(one, now=1.0)
    worker.submit(other, now=1.0)
    assert worker.load.outstanding == 3

    worker.step(step(one.sequences[0].sequence_id, "a", Status.LENGTH), now=2.0)
    assert worker.load.outstanding == 2
    worker.detach(other)
    assert worker.load.outstanding == 0


async def test_a_stop_sequence_frees_the_room_in_the_same_step() -> None:
    one, worker = generation("b"), in_flight()
    worker.submit(one, now=1.0)

    worker.step(step(one.sequences[0].sequence_id, "abc"), now=2.0)

    assert one.status is Status.STOP_SEQUENCE
    assert one.output_token_count == 2
    assert worker.load.outstanding == 0


async def test_tokens_of_sequences_that_have_left_are_dropped() -> None:
    one, worker = generation(), in_flight()
    worker.submit(one, now=1.0)
    worker.detach(one)

    worker.step(step(one.sequences[0].sequence_id, "abc", Status.LENGTH), now=2.0)

    assert one.output_token_count == 0
    assert not one.finished


async def test_a_change_is_told_after_each_token_and_end() -> None:
    one, worker = generation(), in_flight()
    changes: list[Status] = []
    one.on_change = lambda: changes.append(one.status)
    worker.submit(one, now=1.0)

    worker.step(step(one.sequences[0].sequence_id, "ab", Status.END_OF_SEQUENCE), now=2.0)

    assert changes == [Status.DECODING, Status.DECODING, Status.END_OF_SEQUENCE]


async def test_the_workers_account_of_wait_and_prefill_reaches_the_timing() -> None:
    one, worker = generation(), in_flight()
    worker.submit(one, now=1.0)
    sequence = one.sequences[0]

    worker.step(Step([sequence.sequence_id], ids("a"), starts=(Start(sequence.sequence_id, 0.5, 0.25),)), now=2.0)

    assert sequence.timeline.timing(2.0).queue_s == 1.5
    assert sequence.timeline.timing(2.0).prefill_s == 0.25


async def test_a_candidate_that_fails_takes_its_generation_with_it() -> None:
    one, worker = generation(candidate_count=2), in_flight()
    worker.submit(one, now=1.0)

    worker.step(step(one.sequences[0].sequence_id, "", Status.FAILED, "NON_FINITE_LOGITS"), now=2.0)

    assert one.error
    assert one.error.reason == "NON_FINITE_LOGITS"
    assert worker.load.outstanding == 0


async def test_a_lost_worker_gives_back_what_has_not_ended_in_the_order_of_submission() -> None:
    first, ended, half, worker = generation(), generation(), generation(candidate_count=2), in_flight()
    for one in (first, ended, half):
        worker.submit(one, now=1.0)
    worker.step(step(ended.sequences[0].sequence_id, "a", Status.LENGTH), now=2.0)
    worker.step(step(half.sequences[0].sequence_id, "a", Status.LENGTH), now=2.0)

    assert worker.close() == [first, half]
    assert worker.load.outstanding == 0
    assert not first.finished


async def test_a_closed_one_takes_nothing() -> None:
    one, worker = generation(), in_flight()
    worker.submit(one, now=1.0)
    worker.close()

    worker.step(step(one.sequences[0].sequence_id, "abc", Status.LENGTH), now=2.0)
    worker.prompt_logprobs(PromptLogprobs(one.sequences[0].sequence_id, 1, (TokenLogprob(-1.0, 1),)))

    assert one.output_token_count == 0
    assert not one.finished
    assert one.take_prompt_logprobs() is None


async def test_what_has_ended_is_not_submitted_again() -> None:
    one, worker = generation(candidate_count=3), in_flight()
    one.sequences[1].finish(Status.LENGTH)

    worker.submit(one, now=1.0)

    assert worker.load.outstanding == 2
    assert one.sequences[1].status is Status.LENGTH


async def test_nothing_is_submitted_twice_on_one_stream() -> None:
    one, worker = generation(), in_flight()
    worker.submit(one, now=1.0)

    with pytest.raises(ValueError, match="already"):
        worker.submit(one, now=2.0)
    assert worker.load.outstanding == 1


async def test_a_beam_search_takes_its_beams_until_all_of_it_has_ended() -> None:
    one, worker = generation(candidate_count=2), in_flight()
    one.config = replace(one.config, num_beams=4)
    first, second = (sequence.sequence_id for sequence in one.sequences)
    worker.submit(one, now=1.0)
    assert worker.load.outstanding == 4

    finishes = (Finish(first, Status.LENGTH, "", -0.25), Finish(second, Status.END_OF_SEQUENCE, "", -0.5))
    worker.step(Step([first, first, second], ids("abc"), finishes=finishes), now=2.0)

    assert worker.load.outstanding == 0
    assert [sequence.output_token_ids for sequence in one.sequences] == [ids("ab"), ids("c")]
    assert [sequence.score for sequence in one.sequences] == [-0.25, -0.5]


async def test_a_beam_search_that_is_dropped_frees_all_its_rows() -> None:
    one, worker = generation(candidate_count=2), in_flight()
    one.config = replace(one.config, num_beams=4)
    worker.submit(one, now=1.0)

    worker.detach(one)

    assert worker.load.outstanding == 0


async def test_merged_steps_hand_each_sequence_its_tokens_and_log_probabilities_in_order() -> None:
    one, other, worker = generation(output=OutputOptions(logprobs=True)), generation(), in_flight()
    for each in (one, other):
        worker.submit(each, now=1.0)
    first, second = one.sequences[0].sequence_id, other.sequences[0].sequence_id
    likely, unlikely = TokenLogprob(-0.25, 1), TokenLogprob(-4.0, 9)

    worker.step(Step([first, second, first], ids("axb"), logprobs=(likely, None, unlikely)), now=2.0)

    delta = one.sequences[0].take()
    assert delta is not None
    assert [token.logprob for token in delta.logprobs] == [likely, unlikely]
    assert [token.token_id for token in delta.logprobs] == ids("ab")
    assert other.sequences[0].output_token_ids == ids("x")


async def test_ids_and_tokens_that_are_not_parallel_are_refused() -> None:
    one, worker = generation(), in_flight()
    worker.submit(one, now=1.0)

    with pytest.raises(ValueError, match=r"shorter|longer"):
        worker.step(Step([one.sequences[0].sequence_id, 4], [10]), now=2.0)


async def test_a_worker_that_drains_has_no_room() -> None:
    worker = in_flight()
    worker.draining = True

    assert worker.load.limit == 0


async def test_what_makes_way_is_what_began_last_until_there_is_room_enough() -> None:
    worker = in_flight()
    first, wide, other, last = batch(), batch(candidate_count=2), interactive(), batch()
    for now, one in enumerate((first, wide, other, last)):
        worker.submit(one, now=now)
    assert (worker.load.preemptible, worker.load.preemptible_since) == (4, 3)

    assert worker.preempt(0) == []
    assert worker.preempt(2) == [last, wide]

    assert (worker.load.outstanding, worker.load.preemptible, worker.load.preemptible_since) == (2, 1, 0)
    assert worker.preempt(9) == [first]
    assert worker.load.outstanding == 1


async def test_what_has_ended_makes_no_way() -> None:
    one, worker = batch(candidate_count=2), in_flight()
    worker.submit(one, now=1.0)
    for sequence, left in zip(one.sequences, (1, 0), strict=True):
        worker.step(step(sequence.sequence_id, "a", Status.LENGTH), now=2.0)
        assert worker.load.preemptible == left

    assert worker.preempt(1) == []


async def test_late_tokens_of_what_made_way_are_not_taken_twice_when_it_is_back() -> None:
    one, worker = batch(), in_flight()
    worker.submit(one, now=1.0)
    name = one.sequences[0].sequence_id
    worker.step(step(name, "ab"), now=2.0)
    worker.preempt(1)
    one.preempt()
    worker.submit(one, now=3.0)

    worker.step(step(name, "c", Status.LENGTH), now=4.0)
    assert (one.output_token_count, one.finished) == (2, False)

    worker.step(step(one.sequences[0].sequence_id, "c"), now=5.0)
    assert one.sequences[0].output_token_ids == ids("abc")


async def test_the_worker_is_told_to_drop_the_old_name_and_to_go_on_under_the_new_one() -> None:
    outbox = SendBuffer()
    one, worker = batch(), InFlight("worker-0", outbox)
    requests = outbox.requests()
    name = one.sequences[0].sequence_id
    worker.submit(one, now=1.0)
    assert (await anext(requests)).submit.sequences[0].sequence_id == name
    worker.step(step(name, "ab"), now=2.0)

    worker.preempt(1)
    one.preempt()
    worker.submit(one, now=3.0)

    cancel, again = await anext(requests), await anext(requests)
    assert again.submit.sequences[0].sequence_id == one.sequences[0].sequence_id != name
    assert again.submit.sequences[0].output_token_ids == ids("ab")
    assert cancel.cancel.sequence_ids == [name]


async def test_progress_counts_each_token_for_its_caller_each_start_and_each_end_once() -> None:
    mine, other, worker = generation(candidate_count=2), generation("b"), in_flight()
    for one in (mine, other):
        worker.submit(one, now=1.0)
    first, second, third = (sequence.sequence_id for one in (mine, other) for sequence in one.sequences)
    starts = tuple(Start(each, 0.5, 0.25) for each in (first, second, third))

    worker.step(Step([first, second, third, third], ids("xyab"), starts=starts), now=2.0)
    worker.step(Step([third], ids("c")), now=3.0)
    progress = taken_from(worker)

    assert progress.token_counts == {mine: 2, other: 2}
    assert progress.starts == [(mine, 0.25), (other, 0.25)]
    assert progress.end_count == 1
    worker.step(step(first, "", Status.LENGTH), now=4.0)
    assert worker.take_progress() is None
    worker.detach(mine)
    assert taken_from(worker).end_count == 1
    assert worker.take_progress() is None


async def test_progress_that_is_taken_in_the_middle_of_a_step_misses_no_token() -> None:
    first, second, worker = generation(), generation(), in_flight()
    for one in (first, second):
        worker.submit(one, now=1.0)
    taken: list[Progress] = []
    first.on_change = lambda: taken.append(taken_from(worker))

    worker.step(Step([one.sequences[0].sequence_id for one in (first, second)], ids("xy")), now=2.0)

    assert [each.token_counts for each in (*taken, taken_from(worker))] == [{first: 1}, {second: 1}]


async def test_a_generation_with_candidates_that_fail_has_failed_once() -> None:
    one, worker = generation(candidate_count=3), in_flight()
    worker.submit(one, now=1.0)
    failures = tuple(Finish(each.sequence_id, Status.FAILED, "NAN_LOGITS") for each in one.sequences)

    worker.step(Step([], [], finishes=failures), now=2.0)

    assert taken_from(worker).failure_count == 1


@given(
    limit=st.integers(0, 4),
    is_batch=st.lists(st.booleans(), max_size=4),
    lowered_by=st.integers(0, 4),
    draining=st.booleans(),
)
def test_where_nothing_is_taken_routing_finds_neither_room_nor_what_makes_way(
    *, limit: int, is_batch: list[bool], lowered_by: int, draining: bool
) -> None:
    worker = in_flight(limit)
    for each in is_batch[:limit]:
        worker.submit(batch() if each else generation(), now=1.0)
    worker.row_limit -= min(lowered_by, limit)
    worker.draining = draining

    fitting = [count for count in range(1, 6) if pick([worker.load], count) or preemptible([worker.load], count)]

    assert not (worker.takes_nothing and fitting)
    assert worker.takes_nothing or fitting or lowered_by


async def test_a_closed_one_has_nothing_that_could_make_way() -> None:
    worker = in_flight()
    worker.submit(batch(), now=1.0)

    worker.close()

    assert worker.load.preemptible == 0
    assert worker.preempt(1) == []


async def test_what_makes_way_has_not_ended() -> None:
    worker = in_flight()
    worker.submit(batch(), now=1.0)

    worker.preempt(1)

    assert worker.take_progress() is None
