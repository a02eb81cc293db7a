"""Kernels are compiled before their first launch, several at a time, and there are not many variants of them."""

import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

if sys.platform != "linux":
    pytest.skip("Triton is there for Linux alone", allow_module_level=True)

from tests.worker.runners.cuda.compiled import compiled_for
from tests.worker.runners.cuda.matrices import quantized
from tests.worker.tiny_models import tiny_llama
from worker.loading.probe import layer_layouts
from worker.memory.buckets import row_buckets
from worker.memory.storage import Storage
from worker.runners.cuda.assembly import _compile_ahead, _triton_ways, compile_ahead
from worker.runners.cuda.kernels.triton_ops import TritonOps
from worker.runners.cuda.kernels.variants import compiling
from worker.runners.cuda.llama.forward import pools
from worker.runners.cuda.llama.llama import LlamaForward

CPU = torch.device("cpu")
PROCESSORS = 132
MOST_ROWS = 64
SHAPES = 4
"""Of matrices in a Llama: queries, keys and values; outputs of attention; gate and up; down."""
NOT_SPARED = {"rms_norm": 2, "rotate_and_write": 2, "silu_multiply": 1, "attend_part": 5, "join_parts": 4}
"""Most variants of the kernels beside products, for all numbers of rows."""


class Idle(Executor):
    """Compiles nothing, and counts what it was given."""

    def __init__(self) -> None:
        self.given = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given += 1
        future: Future[Any] = Future()
        future.set_exception(RuntimeError("nothing is compiled"))
        return future


def four_bit_llama() -> Any:
    model: Any = tiny_llama(hidden_size=128, intermediate_size=256, num_hidden_layers=2)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(part, name, quantized(linear.out_features, linear.in_features))
    return model


def test_variants_are_few_and_each_is_compiled_once() -> None:
    model = four_bit_llama()
    layers = pools(Storage(layer_layouts(tiny_llama(hidden_size=128, num_hidden_layers=2)), 256, MOST_ROWS))
    forward = LlamaForward(model, layers, TritonOps(PROCESSORS))
    idle = Idle()
    with pytest.MonkeyPatch.context() as patch, compiled_for(90):
        patch.setattr("worker.runners.cuda.kernels.variants.ThreadPoolExecutor", lambda _: idle)
        found = compile_ahead(forward, row_buckets(MOST_ROWS), _triton_ways(PROCESSORS), CPU, torch.float32).names
    # By 16, 32 and 64 rows, and by 32 and 64 outputs.
    assert found["multiply_part"] == 3 * 2 * SHAPES
    assert found["add_parts"] <= 2 * SHAPES
    assert all(found[name] <= most for name, most in NOT_SPARED.items()), found
    assert set(found) == {*NOT_SPARED, "multiply_part", "add_parts"}
    assert idle.given == found.total()


def test_what_was_compiled_ahead_is_not_compiled_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ops, given, late = TritonOps(PROCESSORS), torch.zeros(4, 256), Idle()

    def work() -> None:
        ops.rms_norm(given, given[0], 1e-5)
        ops.silu_multiply(given)

    with compiled_for(90):
        with compiling(2, ThreadPoolExecutor(2)) as first:
            work()
        with compiling(2, late) as second:
            work()
    assert first.names == second.names == {"rms_norm": 1, "silu_multiply": 1}
    assert late.given == 0
    assert "2 variants of kernels are compiled (rms_norm 1, silu_multiply 1)" in caplog.text


def test_a_compiler_that_does_nothing_ahead_costs_time_alone(caplog: pytest.LogCaptureFixture) -> None:
    _compile_ahead(None, [1], None, CPU, torch.float32)
    assert "one after the other" in caplog.text
