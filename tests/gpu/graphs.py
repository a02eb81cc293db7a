"""What the tests on a GPU share."""

from typing import Any

import pytest
import torch

from tests.worker.parity import Recorder, engine_for
from worker.engine.engine import Engine, Memory
from worker.loading.probe import layer_layouts
from worker.runners.cuda.assembly import cuda_runner
from worker.runners.cuda.capture.graph_step import GraphStep

DEVICE = torch.device("cuda", 0)
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device here; kernels and graphs run on one alone"
)


def engine_on_gpu(model: Any, recorder: Recorder) -> tuple[Engine, GraphStep]:
    """Returns an engine with little memory, and its captured steps."""
    runner = cuda_runner(model, DEVICE)
    assert runner is not None
    assert isinstance(runner.decode_step, GraphStep)
    scheduler = engine_for(model, recorder).scheduler
    memory = Memory(layer_layouts(model), DEVICE, pad_token_id=0)
    return Engine(runner, scheduler, memory, sampler=recorder), runner.decode_step
