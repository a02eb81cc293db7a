"""The engine's thread: commands between steps, reports of each step, and what happens when a step goes wrong."""

import math
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from tests.worker.fake_model import EXPLOSIVE, LIMITS, POISON, FakeModel, Gate, expected, fake_engine, root, sequence
from worker.domain.plan import Plan
from worker.domain.sequence import Root, Sequence, Status
from worker.engine.engine import Engine
from worker.engine.engine_thread import Emission, EngineThread, Progress, StepReport


@dataclass
class Clock:
    """Time that goes on when it is told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Running:
    """A thread and what it reports."""

    engine: Engine
    gate: Gate
    clock: Clock
    reports: queue.SimpleQueue[StepReport] = field(default_factory=queue.SimpleQueue)
    deaths: queue.SimpleQueue[None] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.thread = EngineThread(self.engine, self.reports.put, self.clock, lambda: self.deaths.put(None))

    def report(self) -> StepReport:
        return self.reports.get(timeout=300)

    def until_end_of(self, *sequence_ids: int) -> dict[int, list[Emission]]:
        """Collects what is reported until all the sequences have ended."""
        collected: dict[int, list[Emission]] = {}
        missing = set(sequence_ids)
        while missing:
            for emission in self.report().emissions:
                collected.setdefault(emission.sequence_id, []).append(emission)
                if emission.finish is not None:
                    missing.discard(emission.sequence_id)
        return collected


@contextmanager
def running(*, max_rows: int = LIMITS.max_rows, held: bool = False, memory: float = math.inf) -> Iterator[Running]:
    """Starts a thread over the fake model; if `held`, the gate is closed."""
    gate, clock = Gate(), Clock()
    limits = replace(LIMITS, max_rows=max_rows)
    result = Running(fake_engine(FakeModel(gate, memory), limits=limits), gate, clock)
    if not held:
        gate.allow(math.inf)
    result.thread.start()
    try:
        yield result
    finally:
        gate.allow(math.inf)
        result.thread.stop(60)


def tokens(emissions: list[Emission]) -> list[int]:
    return [token for emission in emissions for token in emission.tokens]


def test_each_sequence_gets_its_tokens_in_order_and_one_start_and_one_finish() -> None:
    with running() as it:
        for number in range(6):
            it.thread.submit(root(sequence(number, [number + 3] * (number + 1), 5 + number, owner=number % 2)))
        collected = it.until_end_of(*range(6))
    for number, emissions in collected.items():
        assert tokens(emissions) == expected([number + 3] * (number + 1), 5 + number)
        assert [e.start is not None for e in emissions] == [True] + [False] * (len(emissions) - 1)
        assert [e.finish for e in emissions] == [None] * (len(emissions) - 1) + [Status.FINISHED_LENGTH]
        assert {e.owner for e in emissions} == {number % 2}


def test_a_start_tells_how_long_the_sequence_waited_and_was_read() -> None:
    with running(max_rows=1, held=True) as it:
        it.thread.submit(root(sequence(0, [5], 2)))
        it.thread.submit(root(sequence(1, [6], 1)))
        for seconds in (1.0, 10.0, 100.0):
            it.gate.wait_until_held()
            it.clock.now += seconds
            it.gate.allow(1)
        collected = it.until_end_of(0, 1)
    first, second = collected[0][0].start, collected[1][0].start
    assert first is not None
    assert second is not None
    assert (first.wait_s, first.prefill_s) == (0.0, 1.0)
    assert (second.wait_s, second.prefill_s) == (11.0, 100.0)


def test_progress_shows_the_step_under_way_and_stands_still_while_idle() -> None:
    with running(held=True) as it:
        assert (it.thread.progress.step, it.thread.progress.began_at) == (0, None)
        it.thread.submit(root(sequence(0, [5], 1)))
        it.gate.wait_until_held()
        busy = it.thread.progress
        assert (busy.step, busy.began_at, busy.limit_s) == (1, 100.0, 600.0)
        it.gate.allow(1)
        assert it.report().step == 1
    assert it.thread.progress.began_at is None
    # One more at most: the step that lets the ended row go.
    assert it.thread.progress.step <= 2


def test_the_limit_is_learnt_from_the_steps_before() -> None:
    with running(held=True) as it:
        it.thread.submit(root(sequence(0, [5], 3)))
        for _ in range(2):
            it.gate.wait_until_held()
            it.clock.now += 2.0
            it.gate.allow(1)
        it.gate.wait_until_held()
        assert it.thread.progress.limit_s == 20.0


def test_a_cancelled_row_is_free_with_the_next_step_and_nothing_more_is_reported_for_it() -> None:
    with running(max_rows=1, held=True) as it:
        first, second = sequence(0, [5], 50), sequence(1, [6], 1)
        it.thread.submit(root(first))
        it.thread.submit(root(second))
        it.gate.allow(3)
        for step in (1, 2, 3):
            assert it.report().step == step
        it.gate.wait_until_held()
        it.thread.cancel([first])
        it.gate.allow(1)
        assert [e.sequence_id for e in it.report().emissions] == [0], "the step that was under way"
        it.gate.wait_until_held()
        assert it.engine.scheduler.running == [second]
        it.gate.allow(1)
        assert [e.sequence_id for e in it.report().emissions] == [1]


def test_a_sequence_that_is_cancelled_at_once_is_never_run() -> None:
    with running(held=True) as it:
        holder, cancelled = sequence(0, [5], 1), sequence(1, [EXPLOSIVE], 1)
        it.thread.submit(root(holder))
        it.gate.wait_until_held()
        it.thread.submit(root(cancelled))
        it.thread.cancel([cancelled])
        it.gate.allow(math.inf)
        it.until_end_of(0)
        it.thread.submit(root(sequence(2, [6], 1)))
        assert it.until_end_of(2).keys() == {2}


def test_cancelling_what_has_ended_or_was_cancelled_changes_nothing() -> None:
    with running() as it:
        ended = sequence(0, [5], 1)
        it.thread.submit(root(ended))
        it.until_end_of(0)
        it.thread.cancel([ended, ended])
        it.thread.submit(root(sequence(1, [6], 1)))
        it.until_end_of(1)
        assert ended.status is Status.FINISHED_LENGTH


def test_a_sequence_that_can_never_fit_fails_alone() -> None:
    with running() as it:
        it.thread.submit(root(sequence(0, [5], 20)))
        it.thread.submit(root(sequence(1, [6], 10**9)))
        collected = it.until_end_of(0, 1)
    (refusal,) = collected[1]
    assert (refusal.finish, refusal.error, refusal.tokens) == (Status.FAILED, "TOO_LONG", ())
    assert tokens(collected[0]) == expected([5], 20)


def test_a_row_that_is_not_finite_fails_alone_after_the_tokens_that_it_got() -> None:
    with running() as it:
        it.thread.submit(root(sequence(0, [5], 20)))
        it.thread.submit(root(sequence(1, [POISON, 4], 20)))
        collected = it.until_end_of(0, 1)
    assert (collected[1][-1].finish, collected[1][-1].error) == (Status.FAILED, "NON_FINITE_LOGITS")
    assert tokens(collected[1]) == expected([POISON, 4], 4)
    assert tokens(collected[0]) == expected([5], 20)


def test_an_error_in_a_step_ends_the_guilty_sequence_alone(caplog: pytest.LogCaptureFixture) -> None:
    with running(max_rows=2, held=True) as it:
        for number, prompt in enumerate([[5], [EXPLOSIVE], [6]]):
            it.thread.submit(root(sequence(number, prompt, 4)))
        it.gate.allow(math.inf)
        collected = it.until_end_of(0, 1, 2)
        assert (collected[1][-1].finish, collected[1][-1].error) == (Status.FAILED, "ENGINE_ERROR")
        for number, prompt in ((0, [5]), (2, [6])):
            assert tokens(collected[number]) == expected(prompt, 4)
            assert sum(emission.start is not None for emission in collected[number]) == 1
        assert it.deaths.empty()
    assert it.thread.progress.began_at is None
    assert "sequences to blame: 1" in caplog.text


def test_after_a_failed_allocation_everybody_gets_all_tokens_and_one_start(caplog: pytest.LogCaptureFixture) -> None:
    with running(memory=5) as it:
        for number in range(8):
            it.thread.submit(root(sequence(number, [number + 3] * 20, 30)))
        collected = it.until_end_of(*range(8))
    for number, emissions in collected.items():
        assert tokens(emissions) == expected([number + 3] * 20, 30)
        assert sum(emission.start is not None for emission in emissions) == 1
    assert "out of memory: now at most" in caplog.text
    assert it.deaths.empty()


def test_what_cannot_be_allocated_even_alone_fails_and_the_process_lives() -> None:
    with running(memory=0) as it:
        it.thread.submit(root(sequence(0, [5] * 20, 3)))
        (emission,) = it.until_end_of(0)[0]
    assert (emission.finish, emission.error) == (Status.FAILED, "OUT_OF_MEMORY")
    assert it.deaths.empty()


def test_prompt_logprobs_are_reported_to_the_owner_before_the_first_token() -> None:
    with running() as it:
        reported = sequence(0, [5] * 20, 1, owner=7)
        it.thread.submit(Root(reported.prompt, [reported], prompt_logprobs=1))
        prompts = []
        while not (report := it.report()).emissions:
            prompts += report.prompts
        prompts += report.prompts
    assert {(each.owner, each.sequence_id) for each in prompts} == {(7, 0)}
    assert prompts[0].position == 1
    assert sum(len(each.logprobs) for each in prompts) == 19
    assert all(len(entry.top) == 1 for each in prompts for entry in each.logprobs)


def test_a_device_that_does_not_answer_after_an_error_looks_like_a_step_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running() as it:
        beat: list[Progress] = []
        clear = it.engine._clear

        def look_and_clear() -> None:
            beat.append(it.thread.progress)
            clear()

        monkeypatch.setattr(it.engine, "_clear", look_and_clear)
        it.thread.submit(root(sequence(0, [EXPLOSIVE], 1)))
        it.thread.submit(root(sequence(1, [5], 1)))
        it.until_end_of(1)
    assert beat
    assert {(each.began_at, each.limit_s) for each in beat} == {(100.0, 600.0)}


def test_a_thread_whose_step_hangs_is_given_up() -> None:
    with running(held=True) as it:
        it.thread.submit(root(sequence(0, [5], 1)))
        it.gate.wait_until_held()
        assert not it.thread.stop(0.01)
        it.gate.allow(math.inf)
        assert it.thread.stop(60)


@pytest.mark.parametrize("what", ["try_again", "plan"])
def test_an_engine_that_cannot_try_again_is_reported_dead(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Plan) -> list[Sequence]:
        raise RuntimeError("the device is lost")

    with running() as it:
        monkeypatch.setattr(it.engine, "try_again", broken)
        if what == "plan":
            monkeypatch.setattr(it.engine, "plan", broken)
        it.thread.submit(root(sequence(0, [EXPLOSIVE], 1)))
        assert it.deaths.get(timeout=300) is None


def test_stopping_ends_the_thread_after_the_step_under_way() -> None:
    with running(held=True) as it:
        it.thread.submit(root(sequence(0, [5], 50)))
        it.gate.wait_until_held()
    steps = []
    while not it.reports.empty():
        steps.append(it.report().step)
    assert steps == sorted(steps)
    assert len(steps) < 50
