"""What the scheduler promises, over random histories of arrivals, cancels, ends and broken rows."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from worker.scheduler import Chunk, Limits, Plan, Scheduler, compact
from worker.sequence import SamplingParameters, Sequence, Status

EOS = 1
OTHER = 2


def sequence(number: int, prompt_length: int, max_new_tokens: int) -> Sequence:
    return Sequence(number, [OTHER] * prompt_length, SamplingParameters(max_new_tokens=max_new_tokens))


def bit(bits: int, row: int) -> bool:
    return bool(bits >> row & 1)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    context = draw(st.integers(8, 24))
    return Limits(
        max_rows=draw(st.sampled_from([4, 1, 2, 3, 5])),
        context_length=context,
        group_tokens=context * draw(st.integers(1, 3)),
        chunk_tokens=draw(st.integers(1, 12)),
        idle_chunk_tokens=draw(st.integers(1, 32)),
    )


@dataclass
class Model:
    """Carries out plans on plain lists, as the engine does on tensors, and checks each plan on the way."""

    limits: Limits
    batch: list[Sequence] = field(default_factory=list)
    group: list[Sequence] = field(default_factory=list)
    width: int = 0
    read: int = 0
    last_opened: int = -1

    def apply(self, plan: Plan) -> None:
        self._leave(plan)
        if plan.opening:
            self._open(plan)
        assert plan.decoding == self.batch
        assert len(self.batch) + len(self.group) <= self.limits.max_rows
        if plan.chunk:
            self._read_chunk(plan, plan.chunk)
        assert plan.sampled == self.batch

    def _leave(self, plan: Plan) -> None:
        if plan.batch_rows is not None:
            assert all(source >= target for target, source in enumerate(plan.batch_rows))
            self.batch = [self.batch[row] for row in plan.batch_rows]
        if plan.group_rows is not None:
            assert plan.group_rows == sorted(plan.group_rows)
            self.group = [self.group[row] for row in plan.group_rows]

    def _open(self, plan: Plan) -> None:
        assert not self.group, "one group at a time"
        lengths = [len(s.prompt) for s in plan.opening]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] * len(lengths) <= self.limits.group_tokens
        numbers = [s.sequence_id for s in plan.opening]
        assert min(numbers) > self.last_opened, "served in order of arrival"
        self.last_opened = max(numbers)
        self.group, self.width, self.read = list(plan.opening), lengths[0], 0

    def _read_chunk(self, plan: Plan, chunk: Chunk) -> None:
        self._check_columns(chunk)
        columns = chunk.end - chunk.begin
        budget = self.limits.chunk_tokens if self.batch else self.limits.idle_chunk_tokens
        assert columns == 1 or columns * len(self.group) <= budget
        self.read = chunk.end
        assert bool(plan.joining) == (chunk.end == self.width)
        if plan.joining:
            assert plan.joining == self.group
            self.batch, self.group = self.batch + self.group, []

    def _check_columns(self, chunk: Chunk) -> None:
        """Chunks follow one another; what they skip holds no token, and every one of them holds some."""
        first_token = self.width - max(len(s.prompt) for s in self.group)
        assert chunk.begin == max(self.read, first_token)
        assert chunk.begin < chunk.end <= self.width


class Histories(RuleBasedStateMachine):
    """Random histories of one scheduler."""

    @initialize(limits=limits())
    def begin(self, limits: Limits) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits, [EOS])
        self.model = Model(limits)
        self.submitted: list[Sequence] = []
        self.ends: list[Sequence] = []

    @rule(prompts=st.lists(st.tuples(st.integers(1, 22), st.sampled_from([1, 2, 3, 7, 24])), min_size=1, max_size=4))
    def submit(self, prompts: list[tuple[int, int]]) -> None:
        for prompt_length, max_new_tokens in prompts:
            self._submit(sequence(len(self.submitted), prompt_length, max_new_tokens))

    def _submit(self, new: Sequence) -> None:
        needed = len(new.prompt) + new.parameters.max_new_tokens
        if needed > self.limits.context_length:
            with pytest.raises(ValueError, match=rf"\b{needed}\b.*\b{self.limits.context_length}\b"):
                self.scheduler.submit(new)
            return
        self.scheduler.submit(new)
        self.submitted.append(new)

    @precondition(lambda self: self.scheduler.has_work)
    @rule(which=st.integers(0, 7))
    def cancel(self, which: int) -> None:
        scheduler = self.scheduler
        present = [*scheduler.group, *scheduler.running, *scheduler.waiting]
        chosen = present[which % len(present)]
        status = Status.CANCELLED if not chosen.is_finished else chosen.status
        scheduler.cancel([chosen])
        assert chosen.status is status

    @rule(eos_bits=st.integers(0, 31), broken_bits=st.sampled_from([0, 0, 0, 1, 2, 5]))
    def step(self, eos_bits: int, broken_bits: int) -> None:
        free = self.limits.max_rows > sum(not s.is_finished for s in self.scheduler.running)
        could_open = free and not any(not s.is_finished for s in self.scheduler.group)
        expected = [s for s in self.scheduler.waiting if not s.is_finished]
        plan = self.scheduler.schedule()
        assert bool(plan.opening) == (could_open and bool(expected)), "a free row is used at once"
        assert {s.sequence_id for s in plan.opening} == {s.sequence_id for s in expected[: len(plan.opening)]}
        self.model.apply(plan)
        assert not any(s.is_finished for s in (*plan.sampled, *self.scheduler.group, *self.scheduler.waiting))
        tokens = [EOS if bit(eos_bits, row) else OTHER for row in range(len(plan.sampled))]
        finite = [not bit(broken_bits, row) for row in range(len(plan.sampled))]
        lengths = [len(s.output) for s in plan.sampled]
        changed = self.scheduler.update(plan, tokens, finite)
        assert changed == plan.sampled
        assert [len(s.output) for s in changed] == [n + ok for n, ok in zip(lengths, finite, strict=True)]
        self.ends.extend(s for s in changed if s.is_finished)

    @invariant()
    def batch_and_group_stay_aligned(self) -> None:
        if hasattr(self, "scheduler"):
            assert self.model.batch == self.scheduler.running
            assert self.model.group == self.scheduler.group

    def teardown(self) -> None:
        """Whatever happened: all that is left comes to its end, each sequence once and at the right length."""
        if not hasattr(self, "scheduler"):
            return
        steps_left = 1 + 60 * len(self.submitted)
        while self.scheduler.has_work:
            self.step(0, 0)
            steps_left -= 1
            assert steps_left > 0, "the scheduler does not come to an end"
        reported = [s.sequence_id for s in self.ends]
        ended = [s for s in self.submitted if s.status is not Status.CANCELLED]
        assert sorted(reported) == [s.sequence_id for s in ended]
        for s in ended:
            check_end(s)


def check_end(ended: Sequence) -> None:
    most = ended.parameters.max_new_tokens
    if ended.status is Status.FINISHED_EOS:
        assert ended.output.index(EOS) == len(ended.output) - 1 < most
    elif ended.status is Status.FINISHED_LENGTH:
        assert ended.output == [OTHER] * most
    else:
        assert (ended.status, ended.error) == (Status.FAILED, "NON_FINITE_LOGITS")


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase


@given(st.lists(st.booleans(), max_size=40))
def test_compact_keeps_exactly_the_staying_rows_with_fewest_moves(keep: list[bool]) -> None:
    rows = compact(keep)
    staying = [row for row, stays in enumerate(keep) if stays]
    if len(staying) == len(keep):
        assert rows is None
        return
    assert rows is not None
    assert sorted(rows) == staying
    assert all(source >= target for target, source in enumerate(rows))
    gaps = sum(not stays for stays in keep[: len(staying)])
    assert sum(source != target for target, source in enumerate(rows)) == gaps


def test_the_first_gap_is_filled_by_the_last_row() -> None:
    assert compact([False, True, False, True, True]) == [4, 1, 3]


LIMITS = Limits(max_rows=2, context_length=16, group_tokens=16, chunk_tokens=4, idle_chunk_tokens=8)


def running_scheduler(*prompt_lengths: int) -> tuple[Scheduler, list[Sequence]]:
    """Returns a scheduler whose first max_rows sequences run."""
    scheduler = Scheduler(LIMITS, [EOS])
    sequences = [sequence(number, length, 4) for number, length in enumerate(prompt_lengths)]
    for each in sequences:
        scheduler.submit(each)
    while not scheduler.running:
        plan = scheduler.schedule()
        scheduler.update(plan, [OTHER] * len(plan.sampled), [True] * len(plan.sampled))
    return scheduler, sequences


def test_a_cancelled_row_is_out_of_the_next_plan_and_its_successor_in() -> None:
    scheduler, (first, second, third) = running_scheduler(3, 3, 3)
    scheduler.cancel([first])
    plan = scheduler.schedule()
    assert plan.batch_rows == [1]
    assert plan.decoding == [second]
    assert plan.opening == [third]


def test_a_cancel_between_plan_and_update_delivers_nothing_and_frees_the_row_with_the_next_plan() -> None:
    scheduler, (first, second) = running_scheduler(3, 3)
    plan = scheduler.schedule()
    scheduler.cancel([first])
    assert scheduler.update(plan, [OTHER, OTHER], [True, True]) == [second]
    assert len(first.output) == 1
    assert scheduler.schedule().decoding == [second]


def test_columns_that_lost_their_tokens_to_a_cancel_are_not_read() -> None:
    scheduler = Scheduler(Limits(max_rows=2, context_length=16, group_tokens=32, idle_chunk_tokens=4), [EOS])
    long, short = sequence(0, 12, 1), sequence(1, 3, 1)
    scheduler.submit(long)
    scheduler.submit(short)
    assert scheduler.schedule().chunk == Chunk(0, 2)
    scheduler.cancel([long])
    plan = scheduler.schedule()
    assert plan.group_rows == [1]
    assert plan.chunk == Chunk(9, 12)
    assert plan.joining == [short]


def test_chunks_shrink_while_rows_are_running() -> None:
    scheduler, _ = running_scheduler(2)
    scheduler.submit(sequence(9, 12, 1))
    assert scheduler.schedule().chunk == Chunk(0, LIMITS.chunk_tokens)


def test_drop_all_returns_what_had_not_ended_and_leaves_nothing() -> None:
    scheduler, (first, second, third) = running_scheduler(3, 3, 3)
    fourth = sequence(3, 3, 4)
    scheduler.submit(fourth)
    scheduler.cancel([second])
    assert scheduler.drop_all() == [third, fourth, first]
    assert not scheduler.has_work
    assert scheduler.schedule().is_empty


def test_after_drop_all_in_the_middle_of_a_prefill_the_next_one_starts_at_its_first_column() -> None:
    scheduler = Scheduler(LIMITS, [EOS])
    scheduler.submit(sequence(0, 12, 1))
    assert scheduler.schedule().chunk == Chunk(0, 8)
    scheduler.drop_all()
    scheduler.submit(sequence(1, 5, 1))
    assert scheduler.schedule().chunk == Chunk(0, 5)


def test_a_plan_for_cancelled_waiting_sequences_alone_is_empty() -> None:
    scheduler = Scheduler(LIMITS, [EOS])
    waiting = sequence(0, 3, 1)
    scheduler.submit(waiting)
    scheduler.cancel([waiting])
    assert scheduler.schedule().is_empty
    assert not scheduler.has_work
