"""Captured decode steps, traced on the CPU: they give what the model alone does, whatever happens to the batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.worker.parity import (
    SMALL,
    Recorder,
    engine_for,
    generate_each_alone,
    mismatches,
    mixed_sequences,
    run_with_random_arrivals,
)
from tests.worker.runners.cuda.models import mistral, qwen2, qwen3
from tests.worker.runners.cuda.tracing import Counting, TraceCapture, count_steps, graph_step
from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.domain.sequence import Root, Sequence
from worker.engine.engine import Engine
from worker.memory.buckets import row_buckets
from worker.runners.cuda.capture.graph_step import eager_logits
from worker.runners.cuda.llama.forward import TransformersForward
from worker.runners.cuda.llama.llama import LlamaForward, is_llama_like


def requests(count: int, seed: int) -> list[Sequence]:
    return mixed_sequences(count, seed, vocab_size=VOCAB_SIZE, scale=SMALL, do_sample=False)


def engine_with(model: Any, make: Any, recorder: Recorder, capture: Any = None) -> tuple[Engine, Counting]:
    engine = engine_for(model, recorder, SMALL)
    return engine, count_steps(engine, model, graph_step(model, make, capture))


@pytest.mark.parametrize(
    ("build", "make"),
    [
        (tiny_llama, LlamaForward),
        (tiny_llama, TransformersForward),
        (mistral, LlamaForward),
        (qwen2, LlamaForward),
        (qwen3, LlamaForward),
        (qwen3, TransformersForward),
        (lambda: mistral(sliding_window=12), TransformersForward),
    ],
    ids=["llama", "llama generic", "mistral", "qwen2", "qwen3", "qwen3 generic", "sliding window"],
)
def test_captured_steps_give_the_tokens_and_logits_of_the_model_alone(build: Any, make: Any) -> None:
    torch.manual_seed(0)
    model = build()
    sequences = requests(10, 2)
    alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    engine, steps = engine_with(model, make, recorder)
    events = run_with_random_arrivals(engine, sequences, 2)
    assert mismatches(recorder, sequences, alone) == []
    assert min(events.joins, events.departures, events.slides, events.reviews) > 0
    assert steps.declined == 0
    assert steps.taken > 3 * len(steps.graphs.buckets)


def test_every_bucket_is_captured_once_whatever_the_view_and_the_window() -> None:
    model = tiny_llama()
    capture = TraceCapture()
    engine, steps = engine_with(model, LlamaForward, Recorder(), capture)
    events = run_with_random_arrivals(engine, requests(12, 1), 1)
    assert min(events.slides, events.reviews) > 0
    assert capture.captures == len(steps.graphs.buckets)
    assert set(steps.graphs.buckets) <= set(row_buckets(engine.scheduler.limits.max_rows))


def test_models_whose_layers_see_a_part_of_the_tokens_take_the_general_way() -> None:
    assert is_llama_like(tiny_llama())
    assert is_llama_like(mistral())
    assert not is_llama_like(mistral(sliding_window=12))


class WrongForward(LlamaForward):
    """Turns no query and no key: right for the first token of a row alone."""

    def _angles(self, hidden: Any, given: Any) -> Any:
        cos, sin = super()._angles(hidden, given)
        return torch.ones_like(cos), torch.zeros_like(sin)


class LosingForward(LlamaForward):
    """Reads a value on its way, as no captured step may."""

    def __call__(self, given: Any) -> Any:
        assert float(given.tokens.sum()) >= 0
        return super().__call__(given)


@pytest.mark.parametrize("make", [WrongForward, LosingForward])
def test_a_step_that_is_wrong_or_cannot_be_captured_is_never_served(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_llama()
    sequences = requests(6, 2)
    alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    engine, steps = engine_with(model, make, recorder)
    run_with_random_arrivals(engine, sequences, 2)
    assert mismatches(recorder, sequences, alone) == []
    assert not steps.graphs.is_trusted
    assert steps.graphs.buckets == []
    assert steps.graphs._forward is None, "it would hold copies of matrices"
    assert steps.taken <= 2
    assert "decode steps are not captured" in caplog.text


class TurnedForward(LlamaForward):
    """Writes the right keys and values, and prefers what the model likes least."""

    def __call__(self, given: Any) -> Any:
        return -super().__call__(given)


def test_a_step_of_which_no_row_is_finite_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def logits(*step: Any) -> torch.Tensor:
        seen.append(eager_logits(*step))
        return torch.full_like(seen[-1], torch.nan) if len(seen) == 1 else seen[-1]

    monkeypatch.setattr("worker.runners.cuda.capture.graph_step.eager_logits", logits)
    engine, steps = engine_with(tiny_llama(), TurnedForward, Recorder())
    for sequence in requests(2, 5):
        engine.scheduler.submit(Root(sequence.prompt, [sequence]))
        while engine.scheduler.has_work:
            engine.step()
    assert len(seen) == 2
    assert steps.graphs.buckets == []
    assert steps.graphs._wrong == {1}


class HungryCapture(TraceCapture):
    """Has no memory for the first bucket that it is asked for."""

    def __call__(self, work: Any) -> Any:
        if self.captures == 0:
            self.captures += 1
            raise torch.OutOfMemoryError
        return super().__call__(work)


def test_a_bucket_without_memory_for_its_graph_is_left_to_the_model_and_the_others_are_not() -> None:
    model = tiny_llama()
    sequences = requests(8, 3)
    alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    engine, steps = engine_with(model, LlamaForward, recorder, HungryCapture())
    run_with_random_arrivals(engine, sequences, 3)
    assert mismatches(recorder, sequences, alone) == []
    assert steps.graphs.is_trusted
    assert min(steps.declined, steps.taken) > 0


class SpoiledCapture(TraceCapture):
    """Captures something else than it was given, for one number of rows."""

    def __call__(self, work: Any) -> Any:
        replay = super().__call__(work)
        is_spoiled = self.captures == 2
        return (lambda: -replay()) if is_spoiled else replay


def test_a_bucket_that_is_wrong_is_left_to_the_model_and_the_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_llama()
    sequences = requests(10, 6)
    alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    capture = SpoiledCapture()
    engine, steps = engine_with(model, LlamaForward, recorder, capture)
    run_with_random_arrivals(engine, sequences, 6)
    assert mismatches(recorder, sequences, alone) == []
    assert steps.graphs.is_trusted
    assert capture.captures == len(steps.graphs.buckets) + 1
    assert min(steps.declined, steps.taken) > 0
    assert caplog.text.count("such steps are not captured") == 1


def test_a_bucket_that_found_no_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runners.cuda.capture.graph_step._PATIENCE", 4)
    model = tiny_llama()
    capture = HungryCapture()
    engine, steps = engine_with(model, LlamaForward, Recorder(), capture)
    (sequence,) = mixed_sequences(1, 5, vocab_size=VOCAB_SIZE, do_sample=False)
    sequence.parameters = replace(sequence.parameters, max_new_tokens=12)
    engine.scheduler.submit(Root(sequence.prompt, [sequence]))
    while engine.scheduler.has_work:
        engine.step()
    assert steps.graphs.buckets == [1]
    assert steps.declined == 4


def test_graphs_are_freed_for_what_needs_their_memory_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runners.cuda.capture.graph_step._PATIENCE", 4)
    model = tiny_llama()
    sequences = requests(6, 2)
    alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    engine, steps = engine_with(model, LlamaForward, recorder)
    for sequence in sequences:
        engine.scheduler.submit(Root(sequence.prompt, [sequence]))
    while engine.scheduler.has_work and not steps.graphs.buckets:
        engine.step()
    assert steps.graphs.buckets
    rows, tokens = engine.scheduler.pressure.rows, engine.scheduler.pressure.tokens
    assert engine.relieve(engine.plan()) == []
    assert steps.graphs.buckets == []
    assert (engine.scheduler.pressure.rows, engine.scheduler.pressure.tokens) == (rows, tokens)
    assert engine.relieve(engine.plan()) == []
    assert engine.scheduler.pressure.rows < rows
    while engine.scheduler.has_work:
        engine.step()
    assert steps.graphs.buckets
    assert [sequence.output for sequence in sequences] == [alone[s.sequence_id].tokens for s in sequences]


def test_the_model_itself_is_as_it_was_after_its_steps_were_captured() -> None:
    model = tiny_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine, _ = engine_with(model, LlamaForward, Recorder())
    run_with_random_arrivals(engine, requests(4, 4), 4)
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
