"""Hundreds of steps, or 2,000, at the limit of the memory: rows give way all the time, and nobody's tokens change."""

import random
from typing import Any

import pytest
import torch

from tests.worker.fake_model import frozen
from tests.worker.parity import generate_alone
from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.domain.sequence import Root, SamplingParameters, Sequence, Status
from worker.engine.engine import Engine, Memory
from worker.loading.probe import layer_layouts
from worker.runners.model_runner import ModelRunner
from worker.scheduling.scheduler import Limits, Scheduler

POOL = 260
"""Tokens: hardly more than two sequences of 120 take."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama(hidden_size=32, intermediate_size=64, num_hidden_layers=2)


def engine_over(model: Any) -> Engine:
    device = torch.device("cpu")
    limits = Limits(12, 120, POOL, group_tokens=120, chunk_tokens=16, idle_chunk_tokens=32)
    memory = Memory(layer_layouts(model), device, pad_token_id=0)
    return Engine(ModelRunner.for_model(model, device), Scheduler(limits), memory, clock=frozen)


def random_root(rng: random.Random, number: int) -> Root:
    """Returns a prompt of 1 to 30 tokens with one or two sequences of up to 90 tokens."""
    prompt = [rng.randrange(2, VOCAB_SIZE) for _ in range(rng.randint(1, 30))]
    eos = frozenset(rng.choice([(), (1, 20, 21)]))
    parameters = SamplingParameters(rng.randint(1, 90), eos_token_ids=eos)
    priority, count = rng.randint(0, 1), rng.choice([1, 1, 2])
    rows = [Sequence(10 * number + n, prompt, parameters, arrived_at=number, priority=priority) for n in range(count)]
    return Root(prompt, rows)


@pytest.mark.parametrize(
    ("steps", "preemptions", "reviews", "ends"),
    [(500, 3, 12, 25), pytest.param(2000, 15, 50, 100, marks=pytest.mark.long)],
)
def test_greedy_tokens_equal_generate_alone_through_many_steps_of_preemptions(
    model: Any, steps: int, preemptions: int, reviews: int, ends: int
) -> None:
    """At least so many times a row gives way, and the memory is viewed anew; so many sequences end by themselves."""
    engine = engine_over(model)
    rng = random.Random(0)
    submitted: list[Sequence] = []
    step = 0
    while step < steps or engine.scheduler.has_work:
        if step < steps and len(engine.scheduler.waiting) < 4:
            root = random_root(rng, step)
            submitted += root.sequences
            engine.scheduler.submit(root)
        if rng.random() < 0.05:
            engine.scheduler.cancel([rng.choice(submitted)])
        engine.step()
        assert engine.batch.slab.rows * engine.batch.slab.columns <= POOL
        step += 1
    assert engine.scheduler.preemptions > preemptions
    assert engine.batch.reviews > reviews
    finished = [each for each in submitted if each.status is not Status.CANCELLED]
    assert len(finished) > ends
    for each in finished:
        assert each.output == generate_alone(model, each).tokens
