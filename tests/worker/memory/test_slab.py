"""The preallocated cache: what is written where, and what moves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DummyLayer

from worker.memory.cache_layers import AttentionLayer, HybridLayer, RecurrentLayer
from worker.memory.copies import RowCopy
from worker.memory.layout import Layout, RecurrentShape, StateShape, TokenShape
from worker.memory.slab import Slab
from worker.memory.storage import Storage

CPU = torch.device("cpu")
TOKEN = TokenShape(key_heads=1, key_dim=1, value_heads=1, value_dim=1, dtype=torch.float32, device=CPU)
UNEVEN = TokenShape(key_heads=2, key_dim=3, value_heads=1, value_dim=4, dtype=torch.bfloat16, device=CPU)
STATES = RecurrentShape(StateShape((2, 4), torch.float32, CPU), StateShape((3,), torch.float32, CPU))
CONVOLUTION = RecurrentShape(StateShape((2, 4), torch.float32, CPU), None)


def states(*rows: list[int]) -> Tensor:
    """Returns [rows, 1 head, columns, 1 dimension]."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, :, None]


def attention(slab: Slab) -> AttentionLayer:
    layer = slab.layers[0]
    assert isinstance(layer, AttentionLayer)
    return layer


def filled(rows: list[list[int]], *, columns: int, begin: int = 0, tokens: int | None = None) -> Slab:
    """Returns a slab of one layer whose window holds the given columns, from `begin` on."""
    slab = Slab(Storage([Layout(TOKEN)], tokens or len(rows) * columns, 8), len(rows), columns)
    window = slab.window
    window.rows, window.start, window.end = len(rows), begin, begin
    attention(slab).update(states(*rows), -states(*rows))
    window.end = begin + len(rows[0])
    return slab


def live(slab: Slab) -> list[list[int]]:
    """Returns the keys in the window; the values must be their negatives, as written."""
    window = slab.window
    keys, values = (buffer[: window.rows, 0, window.start : window.end, 0].int() for buffer in attention(slab).buffers)
    assert torch.equal(keys, -values)
    return keys.tolist()


def test_an_update_returns_the_window_with_the_new_columns_and_leaves_the_window() -> None:
    slab = filled([[1, 2, 3], [4, 5, 6]], columns=8, begin=2)
    slab.window.start = 3
    keys, values = attention(slab).update(states([7], [8]), -states([7], [8]))
    assert keys[:, 0, :, 0].tolist() == [[2, 3, 7], [5, 6, 8]]
    assert torch.equal(keys, -values)
    assert (slab.window.start, slab.window.end) == (3, 5)


def test_an_update_copies_nothing() -> None:
    slab = filled([[1, 2]], columns=4)
    keys, _ = attention(slab).update(states([3]), states([3]))
    assert keys.data_ptr() == attention(slab).buffers[0].data_ptr()


def test_rows_that_take_no_part_in_an_update_keep_what_they_have() -> None:
    slab = filled([[1, 2], [3, 4]], columns=4)
    attention(slab).update(states([9]), -states([9]))
    assert attention(slab).buffers[0][1, 0, :, 0].tolist() == [3, 4, 0, 0]


def test_a_cache_tells_transformers_the_width_of_the_window() -> None:
    slab = filled([[1, 2, 3]], columns=8, begin=4)
    assert slab.cache(1).get_seq_length() == 3
    assert attention(slab).get_mask_sizes(2) == (5, 0)
    assert attention(slab).get_max_length() == 8


@pytest.mark.parametrize("end", [3, 4, 5, 8], ids=["far left", "overlapping", "overlapping more", "right"])
def test_a_moved_window_holds_the_same_columns(end: int) -> None:
    rows = [[1, 2, 3], [4, 5, 6]]
    slab = filled(rows, columns=8, begin=3)
    slab.move_window(end)
    assert live(slab) == rows
    assert (slab.window.start, slab.window.end) == (end - 3, end)


@pytest.mark.parametrize(("rows", "columns"), [(3, 8), (4, 6), (3, 5), (8, 3), (4, 4), (3, 7)])
@pytest.mark.parametrize("back", [0, 1, 2])
def test_another_view_holds_the_same_rows_and_columns(rows: int, columns: int, back: int) -> None:
    kept = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    slab = filled(kept, columns=5, begin=1, tokens=24)
    slab.view(rows, columns, end=max(3, columns - back))
    assert live(slab) == kept
    assert (slab.rows, slab.columns, slab.window.end) == (rows, columns, max(3, columns - back))


def test_a_view_that_stays_as_wide_copies_nothing() -> None:
    slab = filled([[1, 2, 3], [4, 5, 6]], columns=4, tokens=16)
    version = slab.storage.layers[0].tokens.keys._version  # type: ignore[union-attr] # the layer has tokens
    slab.view(4, 4, end=3)
    assert live(slab) == [[1, 2, 3], [4, 5, 6]]
    assert slab.storage.layers[0].tokens.keys._version == version  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 8), (4, 2), (4, 5), (9, 2)], ids=["rows", "columns", "tokens", "rows of the storage"]
)
def test_a_view_that_does_not_fit_is_refused_and_changes_nothing(rows: int, columns: int) -> None:
    slab = filled([[1, 2, 3], [4, 5, 6]], columns=8, begin=4)
    with pytest.raises(ValueError, match=rf"{rows} (rows )?of {columns}"):
        slab.view(rows, columns, end=columns)
    assert live(slab) == [[1, 2, 3], [4, 5, 6]]
    assert (slab.rows, slab.columns) == (2, 8)


@pytest.mark.parametrize(
    "order", [[3, 1, 2], [1, 0, 3, 2], [1, 2, 3, 0], [0, 0, 0, 0], [3, 3, 0, 1], [2, 0], []], ids=str
)
def test_take_rows_makes_each_row_what_another_was(order: list[int]) -> None:
    rows = [[1, 1], [2, 2], [3, 3], [4, 4]]
    slab = filled(rows, columns=4, begin=1)
    slab.take_rows(order)
    assert live(slab) == [rows[row] for row in order]


def test_take_rows_may_make_more_of_them() -> None:
    slab = filled([[1, 2], [3, 4]], columns=4, tokens=16)
    slab.view(4, 4, end=2)
    slab.take_rows([1, 1, 0, 1])
    assert live(slab) == [[3, 4], [3, 4], [1, 2], [3, 4]]


def test_copy_rows_aligns_the_newest_columns_at_the_right_edge_behind_zeros() -> None:
    source = filled([[0, 0, 5, 6], [1, 2, 3, 4]], columns=4)
    target = filled([[7, 7, 7, 7, 7], [8, 8, 8, 8, 8]], columns=8, begin=1)
    target.copy_rows(source, [RowCopy(1, 0, 2)])
    assert live(target) == [[7, 7, 7, 7, 7], [0, 0, 0, 5, 6]]


def test_a_window_opens_to_the_left_with_zeros() -> None:
    slab = filled([[1, 2, 3, 4], [5, 6, 7, 8]], columns=4)
    slab.window.start = 3
    slab.widen(1)
    assert live(slab) == [[0, 0, 4], [0, 0, 8]]


def test_clear_row_makes_one_row_finite_and_leaves_the_others() -> None:
    slab = Slab(Storage([Layout(TOKEN, (STATES,))], 8, 2), 2, 4)
    buffers = slab.token_buffers + slab.state_buffers
    for buffer in buffers:
        buffer[0], buffer[1] = torch.nan, 1
    slab.clear_row(0)
    assert len(buffers) == 4
    assert all(not buffer[0].any() and buffer[1].all() for buffer in buffers)


def test_clear_zeroes_everything_and_closes_the_window() -> None:
    slab = Slab(Storage([Layout(TOKEN, (STATES,))], 8, 2), 2, 4)
    slab.window.rows, slab.window.end = 2, 3
    for buffer in slab.token_buffers + slab.state_buffers:
        buffer.fill_(torch.nan)
    slab.clear()
    assert (slab.window.rows, slab.window.start, slab.window.end) == (0, 0, 0)
    assert all(not buffer.any() for buffer in slab.token_buffers + slab.state_buffers)


def test_all_layers_share_one_window_and_have_their_own_shapes() -> None:
    slab = Slab(Storage([Layout(TOKEN), Layout(UNEVEN), Layout()], 16, 2), 2, 8)
    slab.window.end = 5
    assert [layer.get_seq_length() for layer in slab.layers if isinstance(layer, AttentionLayer)] == [5, 5]
    keys, values = slab.token_buffers[2:]
    assert (keys.shape, values.shape, keys.dtype) == ((2, 2, 8, 3), (2, 1, 8, 4), torch.bfloat16)


def test_each_layer_is_of_the_kind_that_transformers_expects_for_what_it_keeps() -> None:
    layouts = [Layout(TOKEN), Layout(states=(STATES,)), Layout(TOKEN, (STATES,)), Layout()]
    slab = Slab(Storage(layouts, 16, 2), 2, 8)
    assert [type(layer) for layer in slab.layers] == [AttentionLayer, RecurrentLayer, HybridLayer, DummyLayer]
    cache = slab.cache(1)
    assert (cache.is_linear, cache.is_dummy) == ([False, True, False, False], [False, False, False, True])


@pytest.mark.parametrize("layout", [Layout(states=(CONVOLUTION,)), Layout(TOKEN, (STATES,))], ids=["alone", "hybrid"])
def test_states_are_shown_for_the_rows_in_use_and_only_after_something_was_read(layout: Layout) -> None:
    slab = Slab(Storage([layout], 32, 4), 4, 8)
    assert slab.cache(2).get_conv_state(0) is None
    slab.cache(2).update_conv_state(torch.ones(2, 2, 4), 0)
    slab.window.end = 4
    shown = slab.cache(2).get_conv_state(0)
    assert shown is not None
    assert shown.shape == (2, 2, 4)
    assert shown.data_ptr() == slab.state_buffers[0].data_ptr()
    assert slab.state_buffers[0][:, 0, 0].tolist() == [1, 1, 0, 0]


def test_states_move_with_their_rows() -> None:
    slab = Slab(Storage([Layout(states=(STATES,))], 32, 4), 4, 8)
    other = Slab(Storage([Layout(states=(STATES,))], 32, 4), 4, 8)
    for buffer in slab.state_buffers:
        buffer.copy_(torch.arange(1, 5).view(4, *[1] * (buffer.dim() - 1)).expand_as(buffer))
    slab.take_rows([1, 0, 3, 3])
    other.copy_rows(slab, [RowCopy(2, 1, 5)])
    assert [buffer.flatten(1)[:, 0].tolist() for buffer in slab.state_buffers] == [[2, 1, 4, 4]] * 2
    assert [buffer.flatten(1)[:, 0].tolist() for buffer in other.state_buffers] == [[0, 0, 1, 0]] * 2


class Allocations(TorchDispatchMode):
    """Notes the largest tensor with memory of its own that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.known: set[int] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.known |= {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in self.known:
            self.largest = max(self.largest, made.numel())
        return made


MOVES: dict[str, Callable[[Slab], None]] = {
    "wider": lambda slab: slab.view(6, 16, end=12),
    "narrower": lambda slab: slab.view(8, 12, end=10),
    "slide": lambda slab: slab.move_window(10),
    "rows in a circle": lambda slab: slab.take_rows([1, 2, 3, 4, 5, 0]),
    "rows in pairs": lambda slab: slab.take_rows([1, 0, 3, 2, 5, 4]),
    "opened to the left": lambda slab: slab.widen(0),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_move_takes_the_memory_of_one_row_of_one_layer(move: str) -> None:
    slab = Slab(Storage([Layout(TOKEN, (STATES,))] * 3, 96, 8), 6, 14)
    slab.window.rows, slab.window.start, slab.window.end = 6, 2, 12
    with Allocations() as allocations:
        MOVES[move](slab)
    assert allocations.largest <= 10
