"""Keys and values are moved by kernels on this device, and as plain torch moves them."""

from typing import Any

import pytest
import torch

from tests.gpu.graphs import DEVICE, engine_on_gpu, needs_gpu
from tests.worker.parity import Recorder, mixed_sequences, run_with_random_arrivals
from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.runners.cuda.kernels.checked_moves import CheckedMoves, Kind, check_moves

pytestmark = [needs_gpu, pytest.mark.timeout(300)]

KINDS: list[Kind] = [
    (8, 128, torch.bfloat16, DEVICE),
    (8, 64, torch.float16, DEVICE),
    (4, 256, torch.bfloat16, DEVICE),
    (2, 80, torch.float32, DEVICE),
    (1, 3, torch.float16, DEVICE),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_kernels_move_as_torch_does(kind: Kind) -> None:
    from worker.runners.cuda.kernels.triton_moves import TritonMoves

    check_moves(TritonMoves(), kind)


def test_an_engine_on_a_gpu_moves_by_kernels() -> None:
    model: Any = tiny_llama()
    model.to(DEVICE)
    engine, _ = engine_on_gpu(model, Recorder())
    events = run_with_random_arrivals(engine, mixed_sequences(8, 0, vocab_size=VOCAB_SIZE), 0)
    assert min(events.slides, events.joins) > 0
    assert isinstance(engine.runner.moves, CheckedMoves)
    assert engine.runner.moves._fast is not None
