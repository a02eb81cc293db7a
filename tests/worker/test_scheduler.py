"""What the scheduler promises, over random histories of arrivals, forks, beams, cancels, ends and failures."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from worker.plan import Chunk, Plan, compact
from worker.scheduler import Limits, Scheduler
from worker.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence, Status

EOS = 1
OTHER = 2


def sequence(number: int, prompt_length: int, max_new_tokens: int, priority: int = 0) -> Sequence:
    parameters = SamplingParameters(max_new_tokens=max_new_tokens, eos_token_ids=frozenset([EOS]))
    # Every token of a prompt tells whose it is.
    return Sequence(number, [100 + number] * prompt_length, parameters, priority=priority, arrived_at=number)


def root(*sequences: Sequence) -> Root:
    return Root(sequences[0].prompt, list(sequences))


def beam_root(num_beams: int, *candidates: Sequence) -> Root:
    return Root(candidates[0].prompt, Beams(num_beams, 1.0, EarlyStopping.HEURISTIC, list(candidates)).rows())


def bit(bits: int, row: int) -> bool:
    return bool(bits >> row & 1)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    context = draw(st.integers(8, 24))
    rows = draw(st.sampled_from([4, 1, 2, 3, 5]))
    return Limits(
        max_rows=rows,
        context_length=context,
        pool_tokens=draw(st.integers(context, 2 * context * rows)),
        group_tokens=context * draw(st.integers(1, 3)),
        chunk_tokens=draw(st.integers(1, 12)),
        idle_chunk_tokens=draw(st.integers(1, 32)),
        prefills_whole=draw(st.sampled_from([False, False, True])),
    )


@dataclass
class Memory:
    """Carries out plans on lists of tokens, as the engine does on tensors, and checks each plan on the way."""

    limits: Limits
    batch: list[list[int]] = field(default_factory=list)
    group: list[Root] = field(default_factory=list)
    view: tuple[int, int] = (0, 0)
    width: int = 0
    read: int = 0

    def apply(self, plan: Plan) -> None:
        self._leave(plan)
        self._decode(plan)
        if plan.opening:
            self._open(plan)
        assert plan.reading == self.group
        if plan.chunk:
            self._read_chunk(plan, plan.chunk)
        assert len(plan.sampled) == len(self.batch)

    def _leave(self, plan: Plan) -> None:
        if plan.batch_rows is not None:
            self.batch = [list(self.batch[row]) for row in plan.batch_rows]
        if plan.group_rows is not None:
            self.group = [self.group[row] for row in plan.group_rows]
        if plan.view is not None:
            self.view = (plan.view.rows, plan.view.columns)
            assert plan.view.rows * plan.view.columns <= self.limits.pool_tokens

    def _decode(self, plan: Plan) -> None:
        for memory, row in zip(self.batch, plan.decoding, strict=True):
            assert memory == (row.prompt + row.output)[:-1], "a row has the memory of another one"
            memory.append(row.output[-1])

    def _open(self, plan: Plan) -> None:
        assert not self.group, "one group at a time"
        lengths = [len(root.tokens) for root in plan.opening]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] * len(lengths) <= self.limits.group_tokens
        self.group, self.width, self.read = list(plan.opening), lengths[0], 0

    def _read_chunk(self, plan: Plan, chunk: Chunk) -> None:
        self._check_columns(chunk)
        columns = chunk.end - chunk.begin
        budget = self.limits.chunk_tokens if self.batch else self.limits.idle_chunk_tokens
        lengths = [len(root.tokens) for root in self.group]
        rows = sum(self.width - length < chunk.end for length in lengths)
        assert columns == 1 or columns * rows <= budget or self.limits.prefills_whole
        assert plan.prefill_tokens == sum(max(0, min(columns, length - self.width + chunk.end)) for length in lengths)
        self.read = chunk.end
        assert bool(plan.joining) == (chunk.end == self.width)
        if plan.joining:
            assert plan.joining == self.group
            for joining in self.group:
                self.batch.extend(list(joining.tokens) for _ in joining.sequences)
            self.group = []

    def _check_columns(self, chunk: Chunk) -> None:
        """Chunks follow one another; what they skip holds no token, and every one of them holds some."""
        first_token = self.width - max(len(root.tokens) for root in self.group)
        assert chunk.begin == max(self.read, first_token)
        assert chunk.begin < chunk.end <= self.width
        assert not self.limits.prefills_whole or chunk.end == self.width

    def check_room(self) -> None:
        """Everything fits into the view, the rows of the group included."""
        rows, columns = self.view
        assert len(self.batch) + sum(len(root.sequences) for root in self.group) <= rows <= self.limits.max_rows
        assert all(len(memory) <= columns for memory in self.batch)


class Histories(RuleBasedStateMachine):
    """Random histories of one scheduler."""

    @initialize(limits=limits())
    def begin(self, limits: Limits) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits)
        self.memory = Memory(limits)
        self.submitted: list[Sequence] = []

    @rule(
        prompt_length=st.integers(1, 22),
        most=st.sampled_from([1, 2, 3, 7, 24]),
        count=st.integers(1, 4),
        beams=st.sampled_from([0, 0, 0, 2, 3]),
        priority=st.integers(0, 1),
    )
    def submit(self, prompt_length: int, most: int, count: int, beams: int, priority: int) -> None:
        numbers = range(len(self.submitted), len(self.submitted) + min(count, beams or count))
        new = [sequence(number, prompt_length, most, priority) for number in numbers]
        for each in new:
            each.prompt = new[0].prompt
        submitted = beam_root(beams, *new) if beams else root(*new)
        needed = prompt_length + most
        if needed > self.limits.context_length:
            self._expect_refusal(submitted, needed, self.limits.context_length)
        elif beams > self.limits.max_rows or beams * needed > self.limits.pool_tokens:
            self._expect_refusal(submitted, beams, self.limits.pool_tokens)
        else:
            self.scheduler.submit(submitted)
            self.submitted.extend(new)

    def _expect_refusal(self, refused: Root, asked: int, available: int) -> None:
        with pytest.raises(ValueError, match=rf"\b{asked}\b.*\b{available}\b"):
            self.scheduler.submit(refused)

    @precondition(lambda self: any(not s.is_finished for s in self.submitted))
    @rule(which=st.integers(0, 7))
    def cancel(self, which: int) -> None:
        present = [s for s in self.submitted if not s.is_finished]
        chosen = present[which % len(present)]
        self.scheduler.cancel([chosen])
        assert chosen.status is Status.CANCELLED

    @rule(eos_bits=st.integers(0, 31), broken_bits=st.sampled_from([0, 0, 0, 1, 2, 5]), parents=st.integers(0, 999))
    def step(self, eos_bits: int, broken_bits: int, parents: int) -> None:
        plan = self._plan()
        self.memory.apply(plan)
        self.memory.check_room()
        assert not any(s.is_finished for s in plan.sampled)
        for place, row in enumerate(plan.sampled):
            if row.beams is None:
                self._give(row, None if bit(broken_bits, place) else EOS if bit(eos_bits, place) else OTHER)
        for beams in dict.fromkeys(row.beams for row in plan.sampled if row.beams):
            rows = sorted((row for row in plan.sampled if row.beams is beams), key=lambda row: row.beam_index)
            self._advance(beams, rows, parents)
        self.scheduler.pressure.step_succeeded()

    @rule()
    def fail_to_allocate(self) -> None:
        plan = self._plan()
        self.memory.apply(plan)
        if plan.is_empty or not (plan.decoding or plan.chunk):
            return
        failed = self.scheduler.preempt_all(plan)
        assert all((s.status, s.error) == (Status.FAILED, "OUT_OF_MEMORY") for s in failed)
        assert not self.scheduler.running
        self.memory = Memory(self.limits)

    def _plan(self) -> Plan:
        scheduler = self.scheduler
        waiting = [s for each in scheduler.waiting for s in each.sequences if not s.is_finished]
        preemptions = scheduler.preemptions
        plan = scheduler.schedule()
        opened = {id(s) for each in plan.opening for s in each.sequences}
        if scheduler.preemptions == preemptions:
            assert opened == {id(s) for s in waiting[: len(opened)]}, "served in order of arrival"
        assert not scheduler.waiting or plan.decoding or plan.chunk, "who waits, waits for somebody"
        return plan

    def _give(self, row: Sequence, token: int | None) -> None:
        before = len(row.output)
        assert self.scheduler.update(row, token)
        assert len(row.output) == before + (token is not None)

    def _advance(self, beams: Beams, rows: list[Sequence], parents: int) -> None:
        assert len(rows) == beams.num_beams
        length = len(rows[0].output) + 1
        if length == rows[0].parameters.max_new_tokens:
            results = [([OTHER] * length, -1.0 * n) for n in range(len(beams.candidates))]
            self.scheduler.conclude_beams(beams, results)
            return
        chosen = [(parents + 7 * n) % len(rows) for n in range(len(rows))]
        outputs = [[*rows[parent].output, 10 + n] for n, parent in enumerate(chosen)]
        self.scheduler.advance_beams(beams, chosen, outputs)

    @invariant()
    def the_batch_is_as_long_as_its_memory(self) -> None:
        if hasattr(self, "scheduler"):
            assert len(self.memory.batch) == len(self.scheduler.running)

    def teardown(self) -> None:
        """Whatever happened: all that is left comes to its end at the right length."""
        if not hasattr(self, "scheduler"):
            return
        steps_left = 1 + 200 * len(self.submitted)
        while self.scheduler.has_work:
            self.step(0, 0, 0)
            steps_left -= 1
            assert steps_left > 0, "the scheduler does not come to an end"
        for each in self.submitted:
            check_end(each)


def check_end(ended: Sequence) -> None:
    most = ended.parameters.max_new_tokens
    if ended.status is Status.FINISHED_EOS:
        assert ended.output.index(EOS) == len(ended.output) - 1 < most
    elif ended.status is Status.FINISHED_LENGTH:
        assert ended.output == [OTHER] * most
    elif ended.status is not Status.CANCELLED:
        assert ended.status is Status.FAILED
        assert ended.error in {"NON_FINITE_LOGITS", "OUT_OF_MEMORY"}


Histories.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase


@given(st.lists(st.booleans(), max_size=40))
def test_compact_keeps_exactly_the_staying_rows_with_fewest_moves(keep: list[bool]) -> None:
    rows = compact(keep)
    staying = [row for row, stays in enumerate(keep) if stays]
    assert sorted(rows) == staying
    gaps = sum(not stays for stays in keep[: len(staying)])
    assert sum(source != target for target, source in enumerate(rows)) == gaps


def test_the_first_gap_is_filled_by_the_last_row() -> None:
    assert compact([False, True, False, True, True]) == [4, 1, 3]


LIMITS = Limits(max_rows=2, context_length=16, pool_tokens=48, group_tokens=16, chunk_tokens=4, idle_chunk_tokens=8)


def run(scheduler: Scheduler) -> Plan:
    """Runs one step in which every row gets OTHER."""
    plan = scheduler.schedule()
    for row in plan.sampled:
        if row.beams is None:
            scheduler.update(row, OTHER)
    return plan


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
    scheduler.submit(root(sequence(9, 12, 1)))
    assert scheduler.schedule().chunk == Chunk(0, LIMITS.chunk_tokens)


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
    assert plan.prefill_tokens == 5
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
    later = sequence(1, 4, 30, priority=1)
    scheduler.submit(root(later))
    for _ in range(4):
        advance(scheduler)
    assert later.status is Status.WAITING


def test_drop_all_returns_what_had_not_ended_and_leaves_nothing() -> None:
    scheduler, (first, second, third) = running_scheduler(3, 3, 3)
    fourth, searched = sequence(3, 3, 4), sequence(4, 3, 4)
    scheduler.submit(root(fourth))
    scheduler.submit(beam_root(2, searched))
    scheduler.cancel([second])
    assert scheduler.drop_all() == [third, fourth, searched, first]
    assert not scheduler.has_work
    assert scheduler.schedule().is_empty


def test_after_drop_all_in_the_middle_of_a_prefill_the_next_one_starts_at_its_first_column() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.submit(root(sequence(0, 12, 1)))
    assert scheduler.schedule().chunk == Chunk(0, 8)
    scheduler.drop_all()
    scheduler.submit(root(sequence(1, 5, 1)))
    assert scheduler.schedule().chunk == Chunk(0, 5)


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
