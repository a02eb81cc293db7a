"""The engine over a fake model: every sequence gets its own tokens, whatever happens around it."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.fake_model import EXPLOSIVE, LIMITS, POISON, FakeModel, ModelError, expected, fake_engine
from tests.worker.tiny_models import tiny_llama
from worker.engine import Engine, Memory
from worker.memory import probe_shapes
from worker.model_runner import ModelRunner
from worker.scheduler import Limits, Scheduler
from worker.sequence import SamplingParameters, Sequence, Status
from worker.warm_up import warm_up

EOS = 17


def sequence(number: int, prompt: list[int], max_new_tokens: int) -> Sequence:
    return Sequence(number, prompt, SamplingParameters(max_new_tokens=max_new_tokens))


def run_history(engine: Engine, seed: int, count: int) -> list[Sequence]:
    """Submits `count` sequences at random times, and cancels some of them wherever they are."""
    rng = random.Random(seed)
    sequences = [
        sequence(n, [rng.randrange(1, 90) for _ in range(rng.randint(1, 40))], rng.randint(1, 24)) for n in range(count)
    ]
    waiting = list(sequences)
    while waiting or engine.scheduler.has_work:
        while waiting and rng.random() < 0.4:
            engine.scheduler.submit(waiting.pop(0))
        if rng.random() < 0.2:
            scheduler = engine.scheduler
            present = [*scheduler.group, *scheduler.running, *scheduler.waiting]
            scheduler.cancel(rng.sample(present, min(1, len(present))))
        engine.step()
    return sequences


def run_to_the_end(engine: Engine) -> None:
    while engine.scheduler.has_work:
        engine.step()


@given(st.integers(0, 10**9), st.sampled_from([16, 64, 128]), st.sampled_from([64, 70, 96, 200]))
@settings(max_examples=40, deadline=None)
def test_every_sequence_gets_its_own_tokens_in_any_history(seed: int, group_tokens: int, columns: int) -> None:
    limits = Limits(4, 64, max(64, group_tokens), chunk_tokens=16, idle_chunk_tokens=group_tokens)
    engine = fake_engine(limits=limits, columns=columns, eos=[EOS])
    for each in run_history(engine, seed, 24):
        alone = expected(each.prompt, each.parameters.max_new_tokens, [EOS])
        assert each.output == (alone[: len(each.output)] if each.status is Status.CANCELLED else alone)


def test_the_longest_prompt_of_a_group_can_be_cancelled_while_it_is_read() -> None:
    model = tiny_llama()
    device = torch.device("cpu")
    limits = Limits(max_rows=4, context_length=64, group_tokens=128, chunk_tokens=8, idle_chunk_tokens=8)
    memory = Memory(probe_shapes(model), limits.max_rows, 96, device, pad_token_id=0)
    runner = ModelRunner(model, takes_position_ids=True, device=device)

    def run(prompts: list[list[int]], *, cancel_longest: bool) -> list[int]:
        engine = Engine(runner, Scheduler(limits, []), memory)
        sequences = [sequence(number, prompt, 8) for number, prompt in enumerate(prompts)]
        for each in sequences:
            engine.scheduler.submit(each)
        engine.step()
        engine.scheduler.cancel(sequences[:cancel_longest])
        run_to_the_end(engine)
        return sequences[-1].output

    short = [7, 8, 9]
    assert run([[5] * 40, short], cancel_longest=True) == run([short], cancel_longest=False)


def test_a_row_that_is_not_finite_fails_alone_and_leaves_nothing_to_its_successor() -> None:
    engine = fake_engine()
    neighbour, broken = sequence(0, [5, 6], 30), sequence(1, [POISON, 3], 20)
    successor = sequence(2, [9], 12)
    for each in (neighbour, broken):
        engine.scheduler.submit(each)
    while not broken.is_finished:
        engine.step()
    assert (broken.status, broken.error) == (Status.FAILED, "NON_FINITE_LOGITS")
    assert len(broken.output) == 4
    engine.scheduler.submit(successor)
    run_to_the_end(engine)
    assert neighbour.output == expected(neighbour.prompt, 30)
    assert successor.output == expected(successor.prompt, 12)


def test_a_row_that_is_not_finite_in_its_prefill_fails_alone() -> None:
    engine = fake_engine()
    broken, neighbour = sequence(0, [POISON] * 9, 5), sequence(1, [5, 6], 12)
    for each in (broken, neighbour):
        engine.scheduler.submit(each)
    run_to_the_end(engine)
    assert broken.status is Status.FAILED
    assert broken.output == []
    assert neighbour.output == expected([5, 6], 12)


@pytest.mark.parametrize("steps_before", [0, 1, 5])
def test_after_an_error_and_a_reset_the_engine_serves_as_if_new(steps_before: int) -> None:
    engine = fake_engine()
    running = sequence(0, list(range(3, 40)), 20)
    engine.scheduler.submit(running)
    for _ in range(steps_before):
        engine.step()
    explosive = sequence(1, [EXPLOSIVE], 1)
    engine.scheduler.submit(explosive)
    with pytest.raises(ModelError):
        run_to_the_end(engine)
    assert set(engine.reset()) == {running, explosive}
    following = sequence(2, [5, 6, 7], 10)
    engine.scheduler.submit(following)
    run_to_the_end(engine)
    assert following.output == expected([5, 6, 7], 10)


def test_warming_up_leaves_an_idle_engine_that_still_counts_right() -> None:
    engine = fake_engine(FakeModel())
    warm_up(engine)
    assert not engine.scheduler.has_work
    after = sequence(0, [5, 6, 7], 10)
    engine.scheduler.submit(after)
    run_to_the_end(engine)
    assert after.output == expected([5, 6, 7], 10)


def test_warming_up_fills_every_row() -> None:
    rows: list[int] = []
    engine = fake_engine()
    decode = engine.runner.decode

    def recorded(batch: object, tokens: list[int]) -> torch.Tensor:
        rows.append(len(tokens))
        return decode(engine.batch, tokens)

    engine.runner.decode = recorded  # type: ignore[method-assign] # a spy
    warm_up(engine)
    assert 1 in rows
    assert LIMITS.max_rows in rows
