"""The pool of a batch is zeros, and on a CPU takes memory only where it has been written."""

import psutil
import pytest
import torch

from worker.memory.layout import Layout, RecurrentShape, StateShape, TokenShape
from worker.memory.storage import Storage, zeros

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(0,), (1,), (3, 5, 7), (1 << 20,)], ids=str)
def test_they_are_aligned_zeros_of_their_type_and_sizes(dtype: torch.dtype, sizes: tuple[int, ...]) -> None:
    made = zeros(*sizes, dtype=dtype, device=CPU)
    assert torch.equal(made, torch.zeros(sizes, dtype=dtype))
    assert made.is_contiguous()
    assert not made.numel() or made.data_ptr() % 64 == 0
    made.fill_(1)
    assert bool((made == 1).all())


def test_a_pool_takes_memory_where_it_is_written() -> None:
    shape = TokenShape(key_heads=4, key_dim=64, value_heads=4, value_dim=64, dtype=torch.bfloat16, device=CPU)
    before = psutil.Process().memory_info().rss
    pool = Storage([Layout(shape)] * 4, tokens=65_536, rows=16)
    assert sum(each.tokens.keys.nbytes + each.tokens.values.nbytes for each in pool.layers if each.tokens) == 256 * MIB
    assert psutil.Process().memory_info().rss - before < 16 * MIB

    first = pool.layers[0].tokens
    assert first is not None
    first.keys.fill_(1)
    assert 16 * MIB < psutil.Process().memory_info().rss - before < 64 * MIB


def test_memory_that_is_not_there_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        zeros(1 << 60, dtype=torch.float32, device=CPU)


def test_states_are_zeros_too() -> None:
    shape = RecurrentShape(conv=StateShape((3, 2), torch.float32, CPU), recurrent=None)
    (state,) = Storage([Layout(None, (shape,))], tokens=0, rows=4).layers[0].states
    assert state.conv is not None
    assert torch.equal(state.conv, torch.zeros(4, 3, 2))
