"""What the scheduler decides in one situation after another."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.scheduled import OTHER, beam_root, root, run, sequence
from worker.domain.plan import Chunk
from worker.domain.sequence import Root, Sequence, Status
from worker.scheduling.scheduler import Limits, Scheduler

LIMITS = Limits(max_rows=2, context_length=16, pool_tokens=48, group_tokens=16, chunk_tokens=4, idle_chunk_tokens=8)


def running_scheduler(*prompt_lengths: int, limits: Limits = LIMITS, most: int = 4) -> tuple[Scheduler, list[Sequence]]:
    """Returns a scheduler whose first sequences run."""
    scheduler = Scheduler(limits)
    sequences = [sequence(number, length, most) for number, length in enumerate(prompt_lengths)]
    for each in sequences:
        scheduler.submit(root(each))
    while not scheduler.running:
        run(scheduler)
    return scheduler, sequences


def test_a_cancelled_row_is_out_of_the_next_plan_and_its_successor_in() -> None:
    scheduler, (first, second, third) = running_scheduler(3, 3, 3)
    scheduler.cancel([first])
    plan = scheduler.schedule()
    assert plan.batch_rows == [1]
    assert plan.decoding == [second]
    assert [each.sequences for each in plan.opening] == [[third]]


def test_a_cancel_between_plan_and_update_delivers_nothing_and_frees_the_row_with_the_next_plan() -> None:
    scheduler, (first, second) = running_scheduler(3, 3)
    scheduler.schedule()
    scheduler.cancel([first])
    assert not scheduler.update(first, OTHER)
    assert scheduler.update(second, OTHER)
    assert len(first.output) == 1
    assert scheduler.schedule().decoding == [second]


def test_columns_that_lost_their_tokens_to_a_cancel_are_not_read() -> None:
    scheduler = Scheduler(Limits(2, 16, pool_tokens=48, group_tokens=32, idle_chunk_tokens=4))
    long, short = sequence(0, 12, 1), sequence(1, 3, 1)
    scheduler.submit(root(long))
    scheduler.submit(root(short))
    assert scheduler.schedule().chunk == Chunk(0, 4)
    scheduler.cancel([long])
    plan = scheduler.schedule()
    assert plan.group_rows == [1]
    assert plan.chunk == Chunk(9, 12)
    assert plan.joining_rows == [short]


def test_chunks_shrink_while_rows_are_running() -> None:
    scheduler, _ = running_scheduler(2)
    run(scheduler)
    scheduler.submit(root(sequence(9, 12, 1)))
    assert scheduler.schedule().chunk == Chunk(0, LIMITS.chunk_tokens)


def test_a_group_waits_for_the_first_step_in_which_so_many_rows_decode_alone() -> None:
    scheduler, (first,) = running_scheduler(2)
    scheduler.submit(root(sequence(9, 12, 1)))
    opening = run(scheduler)
    assert (len(opening.opening), opening.chunk, opening.sampled) == (1, None, [first])
    assert run(scheduler).chunk == Chunk(0, LIMITS.chunk_tokens)


def test_chunks_shrink_while_the_log_probabilities_of_a_prompt_are_reported() -> None:
    scheduler = Scheduler(Limits(2, 16, pool_tokens=48, group_tokens=32, logprob_chunk_tokens=3))
    reported = sequence(0, 12, 1)
    scheduler.submit(Root(reported.prompt, [reported], prompt_logprobs=0))
    assert scheduler.schedule().chunk == Chunk(0, 3)


def test_candidates_are_read_as_one_row_and_run_as_many() -> None:
    scheduler = Scheduler(Limits(3, 16, pool_tokens=48, group_tokens=16))
    candidates = [sequence(number, 5, 4) for number in range(3)]
    scheduler.submit(root(*candidates))
    plan = scheduler.schedule()
    assert plan.prompt_tokens == 5
    assert plan.sampled == candidates


def test_candidates_whose_rows_do_not_fit_together_run_after_one_another() -> None:
    scheduler = Scheduler(Limits(4, 16, pool_tokens=32, group_tokens=16))
    candidates = [sequence(number, 9, 3) for number in range(4)]
    scheduler.submit(root(*candidates))
    most = 0
    while scheduler.has_work:
        most = max(most, len(run(scheduler).sampled))
    assert most == 2
    assert all(each.status is Status.FINISHED_LENGTH for each in candidates)


LONG = Limits(4, 16000, pool_tokens=64000, group_tokens=16000)


def steps_to_first_tokens(scheduler: Scheduler, awaited: list[Sequence]) -> list[int]:
    """Runs until all of these have their first tokens; returns the steps that each has taken."""
    steps: dict[int, int] = {}
    for step in itertools.count(1):
        run(scheduler)
        steps |= {each.sequence_id: step for each in awaited if each.output and each.sequence_id not in steps}
        if len(steps) == len(awaited):
            return [steps[each.sequence_id] for each in awaited]
    raise AssertionError


@pytest.mark.parametrize("comes", ["beside", "meanwhile", "behind another"])
def test_a_short_prompt_does_not_wait_for_a_long_one(comes: str) -> None:
    scheduler, (runs,) = running_scheduler(5, limits=LONG, most=10000)
    long, short = sequence(1, 8000, 4), sequence(3, 5, 4)
    scheduler.submit(root(long))
    if comes == "behind another":
        scheduler.submit(root(sequence(2, 7000, 4)))
    if comes != "beside":
        for _ in range(3):
            run(scheduler)
    scheduler.submit(root(short))
    quick, slow = steps_to_first_tokens(scheduler, [short, long])
    assert quick <= 3
    assert slow >= 8000 // LONG.chunk_tokens - 3
    assert runs.status is Status.RUNNING


def test_who_would_have_been_served_before_passes_however_long_it_is() -> None:
    scheduler = Scheduler(LONG)
    scheduler.submit(root(sequence(1, 8000, 4)))
    run(scheduler)
    better, later = sequence(2, 6000, 4, priority=1), sequence(3, 6000, 4)
    scheduler.submit(root(better))
    scheduler.submit(root(later))
    assert [each.sequences for each in run(scheduler).opening] == [[better]]


def test_short_prompts_without_end_take_half_of_what_is_read() -> None:
    scheduler = Scheduler(LONG)
    long = sequence(0, 8000, 4)
    scheduler.submit(root(long))
    read = run(scheduler).prompt_tokens
    for number in itertools.count(1):
        scheduler.submit(root(sequence(number, 900, 1)))
        read += run(scheduler).prompt_tokens
        if long.output:
            break
    assert 1.5 * 8000 < read < 2 * 8000 + 2 * LONG.idle_chunk_tokens


def test_nobody_passes_where_the_memory_of_groups_is_taken() -> None:
    scheduler = Scheduler(LONG)
    scheduler.submit(root(sequence(0, 15990, 4)))
    run(scheduler)
    scheduler.submit(root(sequence(1, 11, 1, priority=1)))
    assert run(scheduler).opening == []


def test_of_recurrent_prompts_one_step_reads_no_more_together_than_an_idle_chunk() -> None:
    scheduler = Scheduler(replace(LONG, context_length=128000, group_tokens=128000, prefills_whole=True, max_rows=32))
    for number in range(16):
        scheduler.submit(root(sequence(number, 8000 if number % 2 else 100, 1)))
    tokens = [run(scheduler).prompt_tokens for _ in range(30)]
    assert not scheduler.has_work
    assert sum(tokens) == 8 * 8100
    assert set(tokens) <= {0, 8000, 100, 200, 300, 400, 500, 600, 700, 800}


def test_the_youngest_row_of_the_lowest_priority_gives_way_and_keeps_its_tokens() -> None:
    limits = Limits(3, 64, pool_tokens=96, group_tokens=64)
    scheduler = Scheduler(limits)
    old, important, young = (sequence(0, 8, 50), sequence(1, 8, 50, priority=1), sequence(2, 8, 50))
    for each in (old, important, young):
        scheduler.submit(root(each))
    while not scheduler.preemptions:
        run(scheduler)
    assert young.status is Status.WAITING
    assert [each.tokens for each in scheduler.waiting] == [young.prompt + young.output]
    assert young.output
    while scheduler.preemptions == 1:
        run(scheduler)
    assert old.status is Status.WAITING, "of equal priority, the younger; then the lower priority"
    assert not important.is_finished


def test_a_preempted_row_goes_on_before_those_that_came_later() -> None:
    scheduler, sequences = running_scheduler(8, 8, limits=Limits(2, 64, pool_tokens=64, group_tokens=64), most=40)
    late = sequence(9, 8, 4)
    scheduler.submit(root(late))
    while not scheduler.preemptions:
        run(scheduler)
    assert [each.sequences[0] for each in scheduler.waiting] == [sequences[1], late]


def advance(scheduler: Scheduler) -> None:
    """Runs one step in which every row, beams included, gets OTHER."""
    plan = run(scheduler)
    for beams in dict.fromkeys(row.beams for row in plan.sampled if row.beams):
        outputs = [[*row.output, OTHER] for row in plan.sampled if row.beams is beams]
        scheduler.advance_beams(beams, range(beams.num_beams), outputs)


def test_the_rows_of_a_beam_search_give_way_together_and_begin_again() -> None:
    scheduler = Scheduler(Limits(3, 40, pool_tokens=120, group_tokens=40))
    first, candidate = sequence(0, 4, 30), sequence(1, 4, 20)
    scheduler.submit(root(first))
    scheduler.submit(beam_root(2, candidate))
    for _ in range(3):
        advance(scheduler)
    assert scheduler.preempt_all(scheduler.schedule()) == []
    assert [len(each.tokens) for each in scheduler.waiting] == [7, 4]
    beams = scheduler.waiting[1].sequences
    assert [(row.output, row.status) for row in beams] == [([], Status.WAITING)] * 2


def test_who_would_make_a_beam_search_give_way_waits_for_its_end() -> None:
    scheduler = Scheduler(Limits(3, 40, pool_tokens=80, group_tokens=40))
    scheduler.submit(beam_root(2, sequence(0, 4, 20)))
    advance(scheduler)
    later = sequence(1, 4, 30, priority=1)
    scheduler.submit(root(later))
    for _ in range(4):
        advance(scheduler)
    assert later.status is Status.WAITING


def test_after_a_step_that_failed_whoever_was_in_it_goes_on_alone_before_those_who_wait() -> None:
    limits = Limits(3, 16, pool_tokens=48, group_tokens=16)
    scheduler, present = running_scheduler(3, 3, 3, limits=limits)
    waiting = sequence(3, 3, 4)
    scheduler.submit(root(waiting))
    while len(scheduler.running) < 3:
        run(scheduler)
    assert scheduler.try_again(scheduler.schedule()) == []
    opened = scheduler.schedule().opening
    assert {row for each in opened for row in each.sequences} == set(present)
    assert waiting.status is Status.WAITING


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 15)), min_size=1, max_size=12))
def test_of_those_that_wait_a_higher_priority_counts_as_ten_seconds(arrivals: list[tuple[int, float]]) -> None:
    scheduler, now, turns = Scheduler(LIMITS), 0.0, []
    for number, (priority, pause_s) in enumerate(arrivals):
        now += pause_s
        late = sequence(number, 3, 1, priority)
        late.arrived_at = now
        scheduler.submit(root(late))
        turns.append((now - 10 * priority, number))
    assert [each.sequences[0].sequence_id for each in scheduler.waiting] == [number for _, number in sorted(turns)]


def test_a_prefill_that_failed_in_its_middle_starts_again_at_its_first_column() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.submit(root(sequence(0, 12, 1)))
    run(scheduler)
    plan = scheduler.schedule()
    assert plan.chunk == Chunk(8, 12)
    scheduler.try_again(plan)
    assert scheduler.schedule().chunk == Chunk(0, 8)


def test_a_plan_for_cancelled_waiting_sequences_alone_is_empty() -> None:
    scheduler = Scheduler(LIMITS)
    waiting = sequence(0, 3, 1)
    scheduler.submit(root(waiting))
    scheduler.cancel([waiting])
    assert scheduler.schedule().is_empty
    assert not scheduler.has_work


def test_a_row_alone_that_cannot_be_tried_smaller_fails_and_the_next_one_is_tried() -> None:
    scheduler, (first, second) = running_scheduler(3, 3, limits=Limits(1, 16, pool_tokens=48, group_tokens=16))
    plan = scheduler.schedule()
    assert scheduler.preempt_all(plan) == [first]
    assert scheduler.schedule().opening[0].sequences == [second]
