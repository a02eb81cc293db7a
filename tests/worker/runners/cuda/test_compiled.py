"""What Triton's kernels become on cards that are not here: they fit, nothing spills, and products use tensor cores."""

import sys

import pytest
import torch

if sys.platform != "linux":
    pytest.skip("Triton is there for Linux alone", allow_module_level=True)

from tests.worker.runners.cuda.compiled import SHARED_BYTES, Compiled, compiled_for
from tests.worker.runners.cuda.matrices import quantized
from worker.memory.copies import Piece, RowCopy
from worker.runners.cuda.kernels.ops import Bounds, Pool, Rotation
from worker.runners.cuda.kernels.triton_moves import TritonMoves
from worker.runners.cuda.kernels.triton_ops import TritonOps
from worker.runners.cuda.llama.four_bit_product import FourBitProduct
from worker.runners.cuda.llama.matrix import fuse

PROCESSORS = 108
HEADS = 8
MOST_REGISTERS = {"attend_part": 160, "multiply_part": 255}
"""Of a thread: with 128 threads of 160 a multiprocessor, of 65,536, holds three blocks of attention."""
MOST_STACK_BYTES = {"multiply_part": 8}
"""Of a thread: at 32 rows and 64 outputs ptxas spares two registers on Hopper, and which way is faster is measured."""
TENSOR_CORES = "HMMA|HGMMA|QGMMA"
FEW = [86]
ALL = [capability for capability in SHARED_BYTES if capability >= 80]


def kernels(capability: int, *, dims: tuple[int, ...] = (128,), rows: tuple[int, ...] = (16,)) -> list[Compiled]:
    """Returns the kernels of a captured step of a model of 8B, for a card."""
    dtype = torch.bfloat16 if capability >= 80 else torch.float16
    matrix = fuse([quantized(128, 4096, is_nested=True, dtype=dtype)])
    with compiled_for(capability) as found:
        ops = TritonOps(PROCESSORS)
        for dim in dims:
            _attend(ops, dim, dtype)
        given = torch.empty(16, 4096, dtype=dtype)
        ops.add_rms_norm(given, given, given[0], 1e-5)
        ops.silu_multiply(torch.empty(16, 2 * 14336, dtype=dtype))
        for count in rows:
            for outputs in (32, 64):
                FourBitProduct(matrix, outputs, PROCESSORS)(torch.empty(count, 4096, dtype=dtype))
        _move(dtype)
    return found


def _move(dtype: torch.dtype) -> None:
    moves, buffers = TritonMoves(), [torch.empty(4, HEADS, 512, 128, dtype=dtype)] * 2
    pairs = [(buffer, buffer) for buffer in buffers]
    moves.move_window(pairs, 4, Piece(100, 400), 400)
    moves.take_rows(buffers, [(0, 3)], Piece(100, 400))
    moves.copy_rows(pairs, [RowCopy(0, 1, 30)], Piece(100, 400), 500, zeroes=True)


def _attend(ops: TritonOps, dim: int, dtype: torch.dtype) -> None:
    pool = Pool(torch.empty(1, HEADS, 4096, dim, dtype=dtype), torch.empty(1, HEADS, 4096, dim, dtype=dtype))
    places = torch.zeros(18, dtype=torch.int64)
    bounds = Bounds(places[:16], places[16], places[17])
    angles, norm = torch.empty(16, dim, dtype=dtype), torch.empty(dim, dtype=dtype)
    projected = torch.empty(16, 6 * HEADS * dim, dtype=dtype)
    query = ops.rotate_and_write(projected, Rotation(angles, angles, norm, norm, 1e-5), pool, bounds)
    ops.attend(query, pool, bounds, scaling=0.1)


def check(found: list[Compiled], capability: int) -> None:
    names = {"attend_part", "join_parts", "rotate_and_write", "rms_norm", "silu_multiply", "multiply_part", "add_parts"}
    names |= {"move_window", "take_rows", "copy_rows"}
    assert {kernel.name for kernel in found} == names
    for kernel in found:
        assert kernel.stack_bytes <= MOST_STACK_BYTES.get(kernel.name, 0), kernel
        assert kernel.shared_bytes <= SHARED_BYTES[capability], kernel
        assert kernel.registers <= MOST_REGISTERS.get(kernel.name, 64), kernel
        if kernel.name in MOST_REGISTERS:
            assert kernel.count(TENSOR_CORES) > 0, f"{kernel.name} multiplies number by number"


@pytest.mark.parametrize("capability", FEW)
def test_kernels_fit_a_card(capability: int) -> None:
    check(kernels(capability), capability)


@pytest.mark.long
@pytest.mark.parametrize("capability", ALL)
def test_kernels_of_all_sizes_fit_every_card_that_they_are_used_on(capability: int) -> None:
    check(kernels(capability, dims=(64, 128, 256), rows=(1, 32, 64)), capability)


@pytest.mark.long
def test_attention_spills_on_cards_before_ampere() -> None:
    """So it is declined there, and the day that it fits this will tell."""
    found = {kernel.name: kernel for kernel in kernels(75, rows=())}
    assert found["attend_part"].stack_bytes > 0
    assert found["attend_part"].count(TENSOR_CORES) == 0
