"""A captured step waits for its tokens alone, as CUDA itself sees it."""

import warnings
from typing import Any

import pytest
import torch

from tests.gpu.graphs import DEVICE, engine_on_gpu, needs_gpu
from tests.worker.parity import Recorder
from tests.worker.tiny_models import tiny_llama
from worker.domain.sequence import Root, SamplingParameters, Sequence
from worker.sampling.sampler import sample

pytestmark = [needs_gpu, pytest.mark.timeout(300)]

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20},
    "penalized": {"do_sample": True, "repetition_penalty": 1.2, "logprobs": True, "top_logprobs": 3},
}


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_captured_step_waits_once(name: str, rows: int) -> None:
    model: Any = tiny_llama()
    model.to(DEVICE)
    engine, graphs = engine_on_gpu(model, Recorder())
    engine.sampler = sample
    for row in range(rows):
        parameters = SamplingParameters(max_new_tokens=16, seed=row, **SETTINGS[name])
        engine.scheduler.submit(Root([2 + row, 5, 7], [Sequence(row, [2 + row, 5, 7], parameters)]))
    for _ in range(8):
        engine.step()
    assert graphs.buckets
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        found.clear()  # setting the mode warns, too
        try:
            engine.step()
        finally:
            waits = [str(each.message) for each in found]
            torch.cuda.set_sync_debug_mode(0)
    assert len(waits) == 1, waits
