"""Beam searches in the engine, beside each other and beside other rows, find what `generate(num_beams=...)` finds."""

import itertools
import random
from collections.abc import Sequence as Rows
from typing import Any

import pytest
import torch

from tests.worker.beam_requests import Request, agree, generate, random_request
from tests.worker.fake_model import frozen
from tests.worker.parity import generate_alone
from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.domain.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence, Status
from worker.engine.beam_search import BeamSearch, Hypothesis
from worker.engine.engine import Engine, Memory
from worker.loading.probe import layer_layouts
from worker.runners.model_runner import ModelRunner
from worker.scheduling.scheduler import Limits, Scheduler


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama(num_hidden_layers=2, eos_token_id=None)


def engine_over(model: Any, *, pool_tokens: int = 1000) -> Engine:
    device = torch.device("cpu")
    limits = Limits(12, 64, pool_tokens, group_tokens=128, chunk_tokens=8, idle_chunk_tokens=16)
    memory = Memory(layer_layouts(model), device, pad_token_id=0)
    return Engine(ModelRunner.for_model(model, device), Scheduler(limits), memory, clock=frozen)


def requests(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    return [random_request(rng, rng.choice([0.0, 1.0]), rng.choice(list(EarlyStopping))) for _ in range(count)]


def beam_root(number: int, request: Request) -> tuple[Root, list[Sequence]]:
    parameters = SamplingParameters(
        request.max_new_tokens,
        min_new_tokens=request.min_new_tokens,
        eos_token_ids=request.eos_token_ids,
        suppress_tokens=frozenset(request.suppress_tokens),
    )
    candidates = [
        Sequence(10 * number + n, request.prompt, parameters, arrived_at=number)
        for n in range(request.num_return_sequences)
    ]
    beams = Beams(request.num_beams, request.length_penalty, request.early_stopping, candidates)
    return Root(request.prompt, beams.rows()), candidates


def greedy(number: int, most: int = 24) -> Sequence:
    rng = random.Random(number)
    prompt = [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 30))]
    return Sequence(number, prompt, SamplingParameters(most), arrived_at=number)


def run(engine: Engine, roots: Rows[Root]) -> None:
    """Submits a root every other step, and runs to the end."""
    waiting = list(roots)
    step = 0
    while waiting or engine.scheduler.has_work:
        if waiting and step % 2 == 0:
            engine.scheduler.submit(waiting.pop(0))
        engine.step()
        step += 1


def found(candidates: Rows[Sequence]) -> list[Hypothesis]:
    return [Hypothesis(each.output, each.score or 0.0) for each in candidates]


@pytest.mark.parametrize("pool_tokens", [1000, 300], ids=["roomy", "scarce"])
def test_every_search_finds_what_generate_finds_alone_and_so_do_its_neighbours(model: Any, pool_tokens: int) -> None:
    engine = engine_over(model, pool_tokens=pool_tokens)
    searches = [(each, *beam_root(number, each)) for number, each in enumerate(requests(12, 1))]
    neighbours = [greedy(1000 + n) for n in range(4)]
    roots = [root for _, root, _ in searches]
    for place, neighbour in enumerate(neighbours):
        roots.insert(4 * place, Root(neighbour.prompt, [neighbour]))
    run(engine, roots)
    for request, _, candidates in searches:
        assert agree(found(candidates), generate(model, request))
    for neighbour in neighbours:
        assert neighbour.output == generate_alone(model, neighbour).tokens
    assert pool_tokens == 1000 or engine.batch.reviews > 0


def test_a_search_is_silent_until_it_ends_and_then_tells_everything_at_once(model: Any) -> None:
    engine = engine_over(model)
    root, (candidate,) = beam_root(0, Request([5, 6, 7], 3, 1, 1.0, EarlyStopping.NEVER, 9, frozenset()))
    engine.scheduler.submit(root)
    outputs = []
    while engine.scheduler.has_work:
        outputs += engine.step().outputs
    (output,) = outputs
    assert output.sequence is candidate
    assert list(output.tokens) == candidate.output
    assert candidate.status is Status.FINISHED_LENGTH
    assert len(candidate.output) == 9


def test_a_cancelled_search_frees_its_rows_with_the_next_step(model: Any) -> None:
    engine = engine_over(model)
    root, candidates = beam_root(0, Request([5, 6, 7], 4, 2, 1.0, EarlyStopping.NEVER, 20, frozenset()))
    engine.scheduler.submit(root)
    for _ in range(3):
        engine.step()
    engine.scheduler.cancel(candidates[:1])
    assert len(engine.plan().decoding) == 4, "the other candidate still waits for the search"
    engine.scheduler.cancel(candidates)
    assert engine.plan().batch_rows == []
    assert not engine.scheduler.has_work


def test_a_search_whose_logits_are_not_finite_fails_alone() -> None:
    broken_model = tiny_llama(num_hidden_layers=2, eos_token_id=None)
    with torch.no_grad():
        broken_model.model.embed_tokens.weight[3] = torch.nan
    engine = engine_over(broken_model)
    root, candidates = beam_root(0, Request([5, 3, 7], 3, 2, 1.0, EarlyStopping.NEVER, 20, frozenset()))
    neighbour = greedy(1001)
    neighbour.prompt = [5, 6]
    run(engine, [root, Root(neighbour.prompt, [neighbour])])
    assert {(each.status, each.error) for each in candidates} == {(Status.FAILED, "NON_FINITE_LOGITS")}
    assert len(neighbour.output) == 24


@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_search_that_cannot_be_allocated_costs_nobody_a_token(
    model: Any, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_over(model)
    root, (candidate,) = beam_root(0, Request([5, 6, 7], 3, 1, 1.0, EarlyStopping.NEVER, 9, frozenset()))
    neighbour = greedy(1001, most=9)
    for each in (Root(neighbour.prompt, [neighbour]), root):
        engine.scheduler.submit(each)
    given: list[int] = []
    search, calls = BeamSearch.step, itertools.count(1)

    def failing(self: BeamSearch, log_probs: torch.Tensor) -> None:
        if next(calls) == step:
            raise torch.OutOfMemoryError
        search(self, log_probs)

    monkeypatch.setattr(BeamSearch, "step", failing)
    while engine.scheduler.has_work:
        plan = engine.plan()
        try:
            given += [token for each in engine.run(plan).outputs if each.sequence is neighbour for token in each.tokens]
        except torch.OutOfMemoryError:
            assert engine.relieve(plan) == []
    assert given == neighbour.output == generate_alone(model, neighbour).tokens
    assert len(candidate.output) == 9
