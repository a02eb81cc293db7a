"""CUDA graphs of decode steps give what the model alone does, whatever happens to the batch."""

from typing import Any

import pytest
import torch

from tests.gpu.graphs import DEVICE, engine_on_gpu, needs_gpu
from tests.worker.parity import (
    Recorder,
    generate_each_alone,
    largest_difference,
    mismatches,
    mixed_sequences,
    run_with_random_arrivals,
)
from tests.worker.runners.cuda.models import mistral, qwen3
from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.domain.sequence import Root
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.memory.device_errors import is_out_of_memory
from worker.runners.cuda.llama.llama import LlamaForward

pytestmark = [needs_gpu, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    "build", [tiny_llama, qwen3, lambda: mistral(sliding_window=12)], ids=["llama", "qwen3", "sliding window"]
)
def test_graphs_give_the_tokens_and_logits_of_the_model_alone(build: Any) -> None:
    model = build().to(DEVICE)
    sequences = mixed_sequences(16, 0, vocab_size=VOCAB_SIZE, do_sample=False)
    with DEVICE:
        alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    engine, graphs = engine_on_gpu(model, recorder)
    events = run_with_random_arrivals(engine, sequences, 0)
    assert mismatches(recorder, sequences, alone) == []
    assert min(events.joins, events.departures, events.slides, events.reviews) > 0
    assert graphs.is_trusted
    assert graphs.buckets


def test_graphs_of_a_4_bit_model_give_its_logits_but_for_rounding() -> None:
    # 16-bit wide: where rows differ by rounding, tokens may; so both are fed the same ones.
    model: Any = tiny_llama(hidden_size=128, initializer_range=0.1).bfloat16()
    model.to(DEVICE)
    _quantize(model.model)
    sequences = mixed_sequences(8, 1, vocab_size=VOCAB_SIZE, do_sample=False)
    with DEVICE:
        alone = generate_each_alone(model, sequences)
    recorder = Recorder(forced={number: theirs.tokens for number, theirs in alone.items()})
    engine, graphs = engine_on_gpu(model, recorder)
    run_with_random_arrivals(engine, sequences, 1)
    assert graphs.is_trusted
    for sequence in sequences:
        theirs = alone[sequence.sequence_id].logits
        scale = max(float(step.abs().max()) for step in theirs)
        assert largest_difference(recorder.logits[sequence.sequence_id], theirs) < 0.05 * scale


def _quantize(body: torch.nn.Module) -> None:
    names = [name for name, module in body.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in names:
        plain: Any = body.get_submodule(name)
        layer = bnb.nn.LinearNF4(plain.in_features, plain.out_features, bias=False, compute_dtype=torch.bfloat16)
        layer.load_state_dict(plain.state_dict())
        body.set_submodule(name, layer.to(DEVICE))


def test_graphs_go_on_after_the_device_had_no_memory() -> None:
    model: Any = tiny_llama()
    model.to(DEVICE)
    sequences = mixed_sequences(6, 2, vocab_size=VOCAB_SIZE, do_sample=False)
    with DEVICE:
        alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    engine, graphs = engine_on_gpu(model, recorder)
    for sequence in sequences:
        engine.scheduler.submit(Root(sequence.prompt, [sequence]))
    for _ in range(4):
        engine.step()
    plan = engine.plan()
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)
    assert is_out_of_memory(raised.value)
    assert engine.relieve(plan) == []
    while engine.scheduler.has_work:
        engine.step()
    assert [sequence.output for sequence in sequences] == [alone[s.sequence_id].tokens for s in sequences]
    assert graphs.is_trusted


class WaitingForward(LlamaForward):
    """Waits for the device in the middle of a step, as no captured one may."""

    def __call__(self, given: Any) -> Any:
        assert given.tokens.sum().item() >= 0
        return super().__call__(given)


def test_a_step_that_waits_for_the_device_is_not_captured_and_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runners.cuda.assembly.LlamaForward", WaitingForward)
    model: Any = tiny_llama()
    model.to(DEVICE)
    sequences = mixed_sequences(6, 3, vocab_size=VOCAB_SIZE, do_sample=False)
    with DEVICE:
        alone = generate_each_alone(model, sequences)
    engine, graphs = engine_on_gpu(model, Recorder())
    for sequence in sequences:
        engine.scheduler.submit(Root(sequence.prompt, [sequence]))
    for _ in range(4):
        engine.step()
    assert not graphs.is_trusted
    # This cleans the allocator up, which fails behind a capture that broke off.
    assert engine.relieve(engine.plan()) == []
    while engine.scheduler.has_work:
        engine.step()
    assert [sequence.output for sequence in sequences] == [alone[s.sequence_id].tokens for s in sequences]
