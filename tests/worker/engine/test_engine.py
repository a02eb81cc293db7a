"""The engine over a fake model: every sequence gets its own tokens, whatever happens around it."""

import itertools
import random
from collections.abc import Sequence as Rows
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.worker.fake_model import (
    EXPLOSIVE,
    LIMITS,
    POISON,
    VOCAB_SIZE,
    FakeModel,
    ModelError,
    expected,
    fake_engine,
    frozen,
    root,
    sequence,
)
from tests.worker.tiny_models import tiny_llama
from worker.domain.outcome import Outcome
from worker.domain.sequence import Beams, EarlyStopping, Root, Sequence, Status
from worker.engine.engine import Engine, Memory
from worker.loading.probe import layer_layouts
from worker.memory.batch import Batch
from worker.runners.model_runner import ModelRunner
from worker.runners.runner import Logits, Prefill
from worker.scheduling.scheduler import Limits, Scheduler

EOS = 17
POOLS = [96, 128, 200, 384, 1000]
ROOMY = replace(LIMITS, max_rows=8, context_length=96, group_tokens=96)


def random_roots(rng: random.Random, count: int, most_forks: int) -> list[Root]:
    """Returns roots with prompts of 1 to 30 tokens, forked into up to `most_forks` sequences of 1 to 60 tokens."""
    roots = []
    for number in range(count):
        prompt = [rng.randrange(1, 90) for _ in range(rng.randint(1, 30))]
        forks = range(rng.randint(1, most_forks))
        roots.append(root(*(sequence(100 * number + n, prompt, rng.randint(1, 60), eos=[EOS]) for n in forks)))
    return roots


def run_history(engine: Engine, roots: Rows[Root], seed: int, *, cancels: bool = True) -> list[Sequence]:
    """Submits roots at random times, and cancels some of their sequences wherever they are; returns all sequences."""
    rng = random.Random(seed)
    waiting, present = list(roots), []
    while waiting or engine.scheduler.has_work:
        while waiting and rng.random() < 0.4:
            submitted = waiting.pop(0)
            present += submitted.sequences
            engine.scheduler.submit(submitted)
        if cancels and rng.random() < 0.2:
            engine.scheduler.cancel(rng.sample(present, min(1, len(present))))
        run_step(engine)
    return present


def run_step(engine: Engine) -> Outcome | None:
    """Runs a step, and recovers if it fails; None if it did."""
    plan = engine.plan()
    try:
        return engine.run(plan)
    except torch.OutOfMemoryError:
        assert engine.relieve(plan) == []
    except ModelError:
        assert {each.error for each in engine.try_again(plan)} <= {"ENGINE_ERROR"}
    return None


def run_to_the_end(engine: Engine) -> None:
    while engine.scheduler.has_work:
        engine.step()


def check(sequences: Rows[Sequence]) -> None:
    for each in sequences:
        alone = expected(each.prompt, each.parameters.max_new_tokens, [EOS])
        assert each.output == (alone[: len(each.output)] if each.status is Status.CANCELLED else alone)


@examples(
    given(st.integers(0, 10**9), st.sampled_from(POOLS), st.sampled_from([96, 200]), st.sampled_from([1, 6])),
    few=8,
    many=40,
)
def test_every_sequence_gets_its_own_tokens_in_any_history(seed: int, pool: int, group: int, most_forks: int) -> None:
    engine = fake_engine(limits=replace(ROOMY, pool_tokens=pool, group_tokens=group))
    check(run_history(engine, random_roots(random.Random(seed), 20, most_forks), seed))


def test_the_histories_preempt_rows_view_the_pool_anew_and_slide() -> None:
    engine = fake_engine(limits=replace(ROOMY, pool_tokens=200))
    run_history(engine, random_roots(random.Random(1), 40, 3), 1)
    assert engine.scheduler.preemptions > 0
    assert engine.batch.reviews > 0
    assert engine.batch.slides > 0


@examples(given(st.integers(0, 10**9), st.sampled_from([1, 3, 7])), few=4, many=15)
def test_with_too_little_memory_for_a_step_everything_is_computed_in_smaller_ones(seed: int, memory: int) -> None:
    engine = fake_engine(FakeModel(memory=memory), limits=ROOMY)
    check(run_history(engine, random_roots(random.Random(seed), 12, 3), seed))
    assert engine.scheduler.preemptions > 0


def test_the_longest_prompt_of_a_group_can_be_cancelled_while_it_is_read() -> None:
    model = tiny_llama()
    device = torch.device("cpu")
    limits = Limits(4, 64, pool_tokens=384, group_tokens=128, chunk_tokens=8, idle_chunk_tokens=8)
    memory = Memory(layer_layouts(model), device, pad_token_id=0)
    runner = ModelRunner.for_model(model, device)

    def run(prompts: list[list[int]], *, cancel_longest: bool) -> list[int]:
        engine = Engine(runner, Scheduler(limits), memory, clock=frozen)
        sequences = [sequence(number, prompt, 8) for number, prompt in enumerate(prompts)]
        for each in sequences:
            engine.scheduler.submit(root(each))
        engine.step()
        engine.scheduler.cancel(sequences[:cancel_longest])
        run_to_the_end(engine)
        return sequences[-1].output

    short = [7, 8, 9]
    assert run([[5] * 40, short], cancel_longest=True) == run([short], cancel_longest=False)


def test_a_prompt_that_passes_another_and_the_one_that_is_passed_get_what_they_get_alone() -> None:
    model = tiny_llama()
    device = torch.device("cpu")
    limits = Limits(4, 64, pool_tokens=384, group_tokens=64, chunk_tokens=8, idle_chunk_tokens=8)
    runner = ModelRunner.for_model(model, device)

    def run(*prompts: list[int]) -> list[list[int]]:
        memory = Memory(layer_layouts(model), device, pad_token_id=0)
        engine = Engine(runner, Scheduler(limits), memory, clock=frozen)
        sequences = [sequence(number, prompt, 8) for number, prompt in enumerate(prompts)]
        for each in sequences:
            engine.scheduler.submit(root(each))
            engine.step()
        assert [len(each.tokens) for each in engine.scheduler.passed.roots] == [len(prompts[0])] * (len(prompts) - 1)
        run_to_the_end(engine)
        return [each.output for each in sequences]

    long, short = [5 + place % 7 for place in range(50)], [7, 8, 9, 10, 11, 12, 13, 14, 15]
    assert run(long, short) == [*run(long), *run(short)]


def test_a_row_that_is_not_finite_fails_alone_and_leaves_nothing_to_its_successor() -> None:
    engine = fake_engine()
    neighbour, broken = sequence(0, [5, 6], 30), sequence(1, [POISON, 3], 20)
    successor = sequence(2, [9], 12)
    for each in (neighbour, broken):
        engine.scheduler.submit(root(each))
    while not broken.is_finished:
        engine.step()
    assert (broken.status, broken.error) == (Status.FAILED, "NON_FINITE_LOGITS")
    assert len(broken.output) == 4
    engine.scheduler.submit(root(successor))
    run_to_the_end(engine)
    assert neighbour.output == expected(neighbour.prompt, 30)
    assert successor.output == expected(successor.prompt, 12)


def test_a_row_that_is_not_finite_in_its_prefill_fails_alone() -> None:
    engine = fake_engine()
    broken, neighbour = sequence(0, [POISON] * 9, 5), sequence(1, [5, 6], 12)
    for each in (broken, neighbour):
        engine.scheduler.submit(root(each))
    run_to_the_end(engine)
    assert broken.status is Status.FAILED
    assert broken.output == []
    assert neighbour.output == expected([5, 6], 12)


@examples(given(st.integers(0, 10**9), st.integers(1, 3), st.sampled_from(POOLS), st.booleans()), few=8, many=40)
def test_a_step_that_fails_again_and_again_fails_for_the_guilty_alone(
    seed: int,
    guilty_count: int,
    pool: int,
    prefills_whole: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    """The guilty fail as soon as one of their tokens is read, be it of the prompt or of a fork of many."""
    rng = random.Random(seed)
    engine = fake_engine(limits=replace(ROOMY, pool_tokens=pool, prefills_whole=prefills_whole))
    innocent, guilty = random_roots(rng, 12, 4), random_roots(rng, guilty_count, 4)
    for each in guilty:
        each.tokens[rng.randrange(len(each.tokens))] = EXPLOSIVE
        for row in each.sequences:
            row.prompt = each.tokens
    blamed = [row for each in guilty for row in each.sequences]
    roots = innocent + guilty
    rng.shuffle(roots)
    sequences = run_history(engine, roots, seed, cancels=False)
    check([each for each in sequences if each not in blamed])
    assert {(each.status, each.error) for each in blamed} == {(Status.FAILED, "ENGINE_ERROR")}
    assert not engine.scheduler.trial


def test_a_step_that_fails_once_costs_nobody_anything() -> None:
    model = FakeModel()
    engine = fake_engine(model, limits=ROOMY)
    roots = random_roots(random.Random(5), 6, 3)
    passes = itertools.count()

    def fail_at_the_seventh() -> None:
        if next(passes) == 7:
            raise ModelError("a moment")

    model.before = fail_at_the_seventh
    check(run_history(engine, roots, 5, cancels=False))
    assert next(passes) > 7


def test_rows_that_fail_only_beside_others_are_run_fewer_at_a_time() -> None:
    """As for a kernel that is wrong from some number of rows on: nobody is to blame."""
    engine = fake_engine(FakeModel(most_rows=4), limits=ROOMY)
    sequences = [sequence(number, [number + 3] * 4, 40) for number in range(8)]
    for each in sequences:
        engine.scheduler.submit(root(each))
    failures = 0
    while engine.scheduler.has_work:
        failures += run_step(engine) is None
    check(sequences)
    assert failures == 2, "together, together once more; then by halves, as from then on"
    assert engine.scheduler.pressure.rows == 4


def test_a_beam_search_for_which_steps_fail_fails_as_a_whole_and_alone() -> None:
    engine = fake_engine(limits=ROOMY)
    candidates = [sequence(number, [5, EXPLOSIVE], 5) for number in range(2)]
    neighbour = sequence(9, [6, 7], 20)
    engine.scheduler.submit(root(neighbour))
    engine.scheduler.submit(Root([5, EXPLOSIVE], Beams(3, 1.0, EarlyStopping.HEURISTIC, candidates).rows()))
    while engine.scheduler.has_work:
        run_step(engine)
    assert {each.error for each in candidates} == {"ENGINE_ERROR"}
    check([neighbour])


def test_a_sequence_goes_on_from_the_tokens_of_another_worker() -> None:
    engine = fake_engine()
    whole = expected([5, 6], 12)
    resumed = sequence(0, [5, 6], 12)
    resumed.output = whole[:7]
    engine.scheduler.submit(root(resumed))
    run_to_the_end(engine)
    assert resumed.output == whole


def reported(engine: Engine) -> list[tuple[int, int, int]]:
    """Runs to the end; returns sequence, position and rank of each prompt token that was reported."""
    entries = []
    while engine.scheduler.has_work:
        for part in engine.step().prompt_parts:
            places = range(part.position, part.position + len(part.logprobs))
            entries += [(part.sequence.sequence_id, n, e.rank) for n, e in zip(places, part.logprobs, strict=True)]
    return entries


def test_the_log_probabilities_of_a_prompt_come_once_for_each_token_but_the_first() -> None:
    engine = fake_engine(limits=replace(LIMITS, idle_chunk_tokens=5, group_tokens=128))
    likely = [5, *expected([5], 20)]
    prompts = [likely, [7, 7, 7], [8]]
    for number, prompt in enumerate(prompts):
        engine.scheduler.submit(Root(prompt, [sequence(number, prompt, 3)], prompt_logprobs=0))
    entries = reported(engine)
    assert [(number, place) for number, place, _ in sorted(entries)] == [
        (number, place) for number, prompt in enumerate(prompts) for place in range(1, len(prompt))
    ]
    assert {rank for number, _, rank in entries if number == 0} == {1}, "the tokens that the model would have written"
    assert {rank for number, _, rank in entries if number == 1} == {2}, "all others are equally unlikely"


def test_the_log_probabilities_of_a_prompt_are_not_told_twice_after_a_preemption() -> None:
    engine = fake_engine(limits=replace(ROOMY, pool_tokens=115, chunk_tokens=1))
    old, young = sequence(0, [5] * 30, 60), sequence(1, [6] * 40, 10)
    engine.scheduler.submit(root(old))
    while len(old.output) < 4:
        engine.step()
    engine.scheduler.submit(Root(young.prompt, [young], prompt_logprobs=0))
    entries = reported(engine)
    assert engine.scheduler.preemptions > 0
    assert [place for _, place, _ in entries] == list(range(1, 40))


def test_a_longer_neighbour_that_leaves_the_group_does_not_shift_the_log_probabilities_of_a_prompt() -> None:
    engine = fake_engine(limits=replace(ROOMY, pool_tokens=1000, group_tokens=300, idle_chunk_tokens=12))
    longest, likely = sequence(0, [9] * 60, 3), [5, *expected([5], 29)]
    engine.scheduler.submit(root(longest))
    engine.scheduler.submit(Root(likely, [sequence(1, likely, 3)], prompt_logprobs=0))
    engine.step()
    engine.scheduler.cancel([longest])
    assert reported(engine) == [(1, place, 1) for place in range(1, 30)]


@pytest.mark.parametrize("memory", [4, 10, 12])
def test_the_log_probabilities_of_a_prompt_are_whole_after_failed_allocations(memory: int) -> None:
    engine = fake_engine(FakeModel(memory=memory), limits=replace(ROOMY, idle_chunk_tokens=20, group_tokens=200))
    prompt = [5, *expected([5], 19)]
    candidates = [sequence(number, prompt, 4) for number in range(3)]
    engine.scheduler.submit(Root(prompt, candidates, prompt_logprobs=0))
    places: list[int] = []
    while engine.scheduler.has_work:
        for part in (run_step(engine) or Outcome()).prompt_parts:
            places += range(part.position, part.position + len(part.logprobs))
    assert places == list(range(1, 20))
    check(candidates)


def test_prompts_that_are_read_whole_with_log_probabilities_are_not_read_beside_long_ones() -> None:
    limits = replace(ROOMY, pool_tokens=1000, group_tokens=300, logprob_chunk_tokens=16, prefills_whole=True)
    engine = fake_engine(limits=limits)
    reporting, long = sequence(0, [5] * 6, 3), sequence(1, [6] * 60, 3)
    engine.scheduler.submit(Root(reporting.prompt, [reporting], prompt_logprobs=0))
    engine.scheduler.submit(root(long))
    assert [each.sequences for each in engine.plan().opening] == [[reporting]]


def test_logits_of_a_whole_prompt_are_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine(limits=replace(LIMITS, logprob_chunk_tokens=4, idle_chunk_tokens=64))
    sizes: list[int] = []
    step = engine.runner.step

    def recorded(batch: Batch, tokens: list[int], prefill: Prefill | None) -> Logits:
        logits = step(batch, tokens, prefill)
        sizes.extend(() if logits.read is None else (logits.read.numel(),))
        return logits

    monkeypatch.setattr(engine.runner, "step", recorded)
    engine.scheduler.submit(Root([5] * 30, [sequence(0, [5] * 30, 1)], prompt_logprobs=2))
    assert len(reported(engine)) == 29
    assert max(sizes) == 4 * VOCAB_SIZE


def test_the_memory_never_grows_beyond_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine(limits=replace(ROOMY, pool_tokens=200))
    view = Batch.view
    views: list[tuple[int, int]] = []

    def recorded(batch: Batch, rows: int, columns: int) -> None:
        views.append((rows, columns))
        view(batch, rows, columns)

    monkeypatch.setattr(Batch, "view", recorded)
    run_history(engine, random_roots(random.Random(3), 30, 3), 3)
    assert all(rows * columns <= 200 for rows, columns in views)
    assert all(buffer.untyped_storage().nbytes() == 200 * 4 for buffer in engine.batch.slab.token_buffers)
