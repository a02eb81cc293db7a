"""How often the host waits for a GPU in a step, and that nothing is computed across devices: on pretend GPUs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from tests.worker.parity import Recorder, engine_for
from tests.worker.pretend_cuda import MixedDevicesError, PretendCuda, PretendTensor, pretend_cuda
from tests.worker.runners.cuda.tracing import TraceCapture, graph_step
from tests.worker.tiny_models import tiny_llama
from worker.domain.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence
from worker.engine.engine import Engine, Memory
from worker.loading.probe import layer_layouts
from worker.memory.copies import on_device
from worker.runners.cuda.capture.capture import Work
from worker.runners.cuda.llama.llama import LlamaForward
from worker.runners.cuda.runner import CudaRunner
from worker.runners.model_runner import ModelRunner
from worker.sampling.sampler import sample

GPU, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)
WARPED = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.01}
PENALIZED = {
    **WARPED,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "no_repeat_ngram_size": 2,
    "logit_bias": ((5, 1.0), (7, -1.0)),
    "suppress_tokens": frozenset({9}),
    "bad_words_ids": ((4,), (5, 6)),
    "min_new_tokens": 12,
    "eos_token_ids": frozenset({1}),
    "logprobs": True,
    "top_logprobs": 3,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True},
    "warped": WARPED,
    "typical": {"do_sample": True, "typical_p": 0.9, "epsilon_cutoff": 1e-4},
    "penalized": PENALIZED,
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendCuda]:
    with pretend_cuda(monkeypatch) as counts:
        yield counts


class PretendCapture(TraceCapture):
    """Traces what is computed with the numbers of pretend tensors."""

    def __call__(self, work: Work) -> Work:
        replay = super().__call__(lambda: _host(work()))
        return lambda: PretendTensor(replay(), GPU)


def _host(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, PretendTensor)
    return tensor.host


def engine_on(gpu: PretendCuda, *, is_captured: bool) -> Engine:
    model = tiny_llama()
    on_cpu = engine_for(model, Recorder())
    layouts = layer_layouts(model)
    on_gpu = [replace(each, tokens=replace(each.tokens, device=GPU)) for each in layouts if each.tokens]
    gpu.put(model, GPU)
    eager = ModelRunner.for_model(model, GPU)
    step = graph_step(model, LlamaForward, PretendCapture())
    runner = CudaRunner(eager, step) if is_captured else eager
    return Engine(runner, on_cpu.scheduler, Memory(on_gpu, GPU, pad_token_id=0), sample, on_cpu.clock)


def sequences(*settings: dict[str, Any]) -> list[Sequence]:
    """Returns one sequence for each."""
    return [
        Sequence(number, [2 + number, 5, 7], SamplingParameters(max_new_tokens=16, seed=number, **each))
        for number, each in enumerate(settings)
    ]


def submit(engine: Engine, rows: list[Sequence]) -> None:
    for row in rows:
        engine.scheduler.submit(Root(row.prompt, [row]))


def waits_of_a_step(gpu: PretendCuda, engine: Engine, rows: list[Sequence]) -> dict[str, int]:
    """Returns how often a decode step of rows waits, by what for, once they are under way."""
    submit(engine, rows)
    for _ in range(8):
        engine.step()
    gpu.clear()
    engine.step()
    return dict(+gpu.waits)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_captured_step_waits_for_its_tokens_and_for_nothing_else(name: str, rows: int, gpu: PretendCuda) -> None:
    assert waits_of_a_step(gpu, engine_on(gpu, is_captured=True), sequences(*[SETTINGS[name]] * rows)) == {"tolist": 1}


def test_rows_of_all_settings_together_wait_once(gpu: PretendCuda) -> None:
    assert waits_of_a_step(gpu, engine_on(gpu, is_captured=True), sequences(*SETTINGS.values())) == {"tolist": 1}


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_a_step_of_transformers_waits_for_its_tokens_and_for_its_own_look_at_the_mask(gpu: PretendCuda) -> None:
    found = waits_of_a_step(gpu, engine_on(gpu, is_captured=False), sequences(*[WARPED] * 4))
    assert found == {"__bool__": 1, "tolist": 1}


def test_a_beam_search_waits_twice(gpu: PretendCuda) -> None:
    """For what its log-probabilities are: numbers, and the best of them."""
    (candidate,) = sequences({})
    beams = Beams(3, 1.0, EarlyStopping.HEURISTIC, [candidate])
    engine = engine_on(gpu, is_captured=True)
    engine.scheduler.submit(Root(candidate.prompt, beams.rows()))
    for _ in range(8):
        engine.step()
    gpu.clear()
    engine.step()
    assert +gpu.waits == {"__bool__": 1, "tolist": 1}


def test_a_chunk_of_a_prompt_waits_for_its_first_token_alone(gpu: PretendCuda) -> None:
    engine = engine_on(gpu, is_captured=True)
    columns = engine.scheduler.limits.idle_chunk_tokens
    engine.scheduler.submit(Root([5] * (columns + 2), sequences({})))
    engine.step()
    gpu.clear()
    engine.step()
    assert +gpu.waits == {"tolist": 1}


@pytest.mark.parametrize("is_captured", [True, False], ids=["captured", "eager"])
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_tokens_on_a_pretend_gpu_are_those_of_a_cpu(gpu: PretendCuda, *, is_captured: bool) -> None:
    outputs = []
    for where in ("gpu", "cpu"):
        rows = sequences(*SETTINGS.values())
        engine = engine_on(gpu, is_captured=is_captured) if where == "gpu" else engine_for(tiny_llama(), Recorder())
        submit(engine, rows)
        while engine.scheduler.has_work:
            engine.step()
        outputs.append([row.output for row in rows])
    assert outputs[0] == outputs[1]


def test_where_no_memory_can_be_pinned_steps_wait_and_are_the_same(
    gpu: PretendCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(Tensor, "pin_memory", refuse)
    assert on_device([3, 4], GPU).tolist() == on_device([3, 4], GPU).tolist() == [3, 4]
    assert caplog.text.count("no memory can be pinned") == 1
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(Tensor, "pin_memory", Mock(side_effect=lost))
    with pytest.raises(RuntimeError, match="illegal"):
        on_device([3, 4], GPU)


def test_a_pretend_gpu_refuses_what_a_gpu_refuses(gpu: PretendCuda) -> None:
    here = torch.ones(3, device=GPU)
    for there in (torch.ones(3), torch.ones(3, device=OTHER)):
        with pytest.raises(MixedDevicesError):
            _ = here + there
    with pytest.raises(TypeError, match="numbers on the host"):
        here.numpy()
    assert (here + torch.tensor(1.0)).tolist() == [2.0] * 3


def test_a_pretend_gpu_counts_what_a_gpu_waits_for(gpu: PretendCuda) -> None:
    given = torch.arange(4, device=GPU)
    pinned = torch.ones(4).pin_memory()
    for work, waits in (
        (lambda: torch.tensor([1, 2], device=GPU), 1),
        (lambda: torch.ones(4).to(GPU), 1),
        (lambda: pinned.to(GPU, non_blocking=True), 0),
        (lambda: pinned.to(GPU), 1),
        (lambda: given.sum().item(), 1),
        (lambda: bool(given[0] > 1), 1),
        (lambda: given[given > 1], 1),
        (lambda: given[[0, 1]], 1),
        (given.nonzero, 1),
        (lambda: given.repeat_interleave(given), 1),
        (lambda: given.repeat_interleave(given, output_size=6), 0),
        (given.cpu, 1),
        (lambda: given.float().softmax(0), 0),
    ):
        gpu.clear()
        work()
        assert gpu.waits.total() == waits
