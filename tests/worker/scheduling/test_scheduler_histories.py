"""What the scheduler promises, over random histories of arrivals, forks, beams, cancels, ends and failures."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.worker.scheduled import EOS, OTHER, beam_root, root, sequence
from worker.domain.plan import Chunk, Plan
from worker.domain.sequence import Beams, Root, Sequence, Status
from worker.scheduling.scheduler import Limits, Scheduler


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
class Group:
    """Roots that are read together, and how far."""

    roots: list[Root] = field(default_factory=list)
    size: int = 0
    width: int = 0
    read: int = 0


@dataclass
class Memory:
    """Carries out plans on lists of tokens, as the engine does on tensors, and checks each plan on the way."""

    limits: Limits
    batch: list[list[int]] = field(default_factory=list)
    group: Group = field(default_factory=Group)
    passed: Group = field(default_factory=Group)
    view: tuple[int, int] = (0, 0)

    def apply(self, plan: Plan) -> None:
        self._leave(plan)
        self._decode(plan)
        if plan.opening:
            self._open(plan)
        assert plan.reading == self.group.roots
        if plan.chunk:
            self._read_chunk(plan, plan.chunk)
        assert len(plan.sampled) == len(self.batch)

    def _leave(self, plan: Plan) -> None:
        if plan.batch_rows is not None:
            self.batch = [list(self.batch[row]) for row in plan.batch_rows]
        for group, rows in ((self.group, plan.group_rows), (self.passed, plan.passed_rows)):
            group.roots = group.roots if rows is None else [group.roots[row] for row in rows]
        self._resume()
        if plan.view is not None:
            self.view = (plan.view.rows, plan.view.columns)
            assert plan.view.rows * plan.view.columns <= self.limits.pool_tokens

    def _decode(self, plan: Plan) -> None:
        for memory, row in zip(self.batch, plan.decoding, strict=True):
            assert memory == (row.prompt + row.output)[:-1], "a row has the memory of another one"
            memory.append(row.output[-1])

    def _resume(self) -> None:
        if not self.group.roots:
            self.group, self.passed = self.passed, Group()

    def _open(self, plan: Plan) -> None:
        assert not self.passed.roots, "one group passes one other"
        lengths = [len(root.tokens) for root in plan.opening]
        assert lengths == sorted(lengths, reverse=True)
        size = lengths[0] * len(lengths)
        assert size + self.group.size <= self.limits.group_tokens
        assert len(lengths) == 1 or size <= self.limits.shared_group_tokens
        assert not (self.group.roots and self.limits.prefills_whole)
        self.passed, self.group = self.group, Group(list(plan.opening), size, lengths[0])

    def _read_chunk(self, plan: Plan, chunk: Chunk) -> None:
        group = self.group
        self._check_columns(chunk)
        columns = chunk.end - chunk.begin
        budget = self.limits.chunk_tokens if self.batch else self.limits.idle_chunk_tokens
        lengths = [len(root.tokens) for root in group.roots]
        rows = sum(group.width - length < chunk.end for length in lengths)
        assert columns == 1 or columns * rows <= budget or self.limits.prefills_whole
        assert plan.prompt_tokens == sum(max(0, min(columns, length - group.width + chunk.end)) for length in lengths)
        group.read = chunk.end
        assert bool(plan.joining) == (chunk.end == group.width)
        if plan.joining:
            assert plan.joining == group.roots
            for joining in group.roots:
                self.batch.extend(list(joining.tokens) for _ in joining.sequences)
            group.roots = []
            self._resume()

    def _check_columns(self, chunk: Chunk) -> None:
        """Chunks follow one another; what they skip holds no token, and every one of them holds some."""
        group = self.group
        first_token = group.width - max(len(root.tokens) for root in group.roots)
        assert chunk.begin == max(group.read, first_token)
        assert chunk.begin < chunk.end <= group.width
        assert not self.limits.prefills_whole or chunk.end == group.width

    def check_room(self) -> None:
        """Everything fits into the view, the rows of the groups included."""
        rows, columns = self.view
        joining = sum(len(root.sequences) for root in self.group.roots + self.passed.roots)
        assert len(self.batch) + joining <= rows <= self.limits.max_rows
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
        self.scheduler.step_succeeded(plan, seconds=parents / 1000)

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

    @rule()
    def fail_to_run(self) -> None:
        plan = self._plan()
        self.memory.apply(plan)
        if plan.is_empty or not (plan.decoding or plan.chunk):
            return
        failed = self.scheduler.try_again(plan)
        assert all((s.status, s.error) == (Status.FAILED, "ENGINE_ERROR") for s in failed)
        assert not self.scheduler.running
        self.memory = Memory(self.limits)

    def _plan(self) -> Plan:
        scheduler = self.scheduler
        waiting = [s for each in scheduler.waiting for s in each.sequences if not s.is_finished]
        preemptions, reading = scheduler.preemptions, bool(scheduler.reading.roots)
        plan = scheduler.schedule()
        opened = {id(s) for each in plan.opening for s in each.sequences}
        if scheduler.preemptions == preemptions and not reading and not scheduler.trial:
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
        assert ended.error in {"NON_FINITE_LOGITS", "OUT_OF_MEMORY", "ENGINE_ERROR"}


class ManyHistories(Histories):
    """The same, for `make test-long`."""


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestHistories = Histories.TestCase
ManyHistories.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestManyHistories = pytest.mark.long(ManyHistories.TestCase)
