"""The preallocated cache: what is written where, and what moves."""

import pytest
import torch
from torch import Tensor

from worker.slab import LayerShape, Slab, Storage, bytes_per_token

CPU = torch.device("cpu")
SHAPE = LayerShape(key_heads=1, key_dim=1, value_heads=1, value_dim=1, dtype=torch.float32, device=CPU)
UNEVEN = LayerShape(key_heads=2, key_dim=3, value_heads=1, value_dim=4, dtype=torch.bfloat16, device=CPU)


def states(*rows: list[int]) -> Tensor:
    """Returns [rows, 1 head, columns, 1 dimension]."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, :, None]


def filled(rows: list[list[int]], *, columns: int, begin: int = 0) -> Slab:
    """Returns a slab of one layer whose window holds the given columns, from `begin` on."""
    slab = Slab(Storage([SHAPE], len(rows) * columns), len(rows), columns)
    window = slab.window
    window.rows, window.start, window.end = len(rows), begin, begin
    slab.layers[0].update(states(*rows), -states(*rows))
    window.end = begin + len(rows[0])
    return slab


def live(slab: Slab) -> list[list[int]]:
    """Returns the keys in the window; the values must be their negatives, as written."""
    window = slab.window
    keys, values = slab.layers[0].buffers
    assert torch.equal(keys, -values)
    return keys[: window.rows, 0, window.start : window.end, 0].int().tolist()


def test_an_update_returns_the_window_with_the_new_columns_and_leaves_the_window() -> None:
    slab = filled([[1, 2, 3], [4, 5, 6]], columns=8, begin=2)
    slab.window.start = 3
    keys, values = slab.layers[0].update(states([7], [8]), -states([7], [8]))
    assert keys[:, 0, :, 0].tolist() == [[2, 3, 7], [5, 6, 8]]
    assert torch.equal(keys, -values)
    assert (slab.window.start, slab.window.end) == (3, 5)


def test_an_update_copies_nothing() -> None:
    slab = filled([[1, 2]], columns=4)
    keys, _ = slab.layers[0].update(states([3]), states([3]))
    assert keys.data_ptr() == slab.layers[0].buffers[0].data_ptr()


def test_rows_that_take_no_part_in_an_update_keep_what_they_have() -> None:
    slab = filled([[1, 2], [3, 4]], columns=4)
    slab.layers[0].update(states([9]), -states([9]))
    assert slab.layers[0].buffers[0][1, 0, :, 0].tolist() == [3, 4, 0, 0]


def test_a_cache_tells_transformers_the_width_of_the_window() -> None:
    slab = filled([[1, 2, 3]], columns=8, begin=4)
    assert slab.cache.get_seq_length() == 3
    assert slab.layers[0].get_mask_sizes(2) == (5, 0)
    assert slab.layers[0].get_max_length() == 8


@pytest.mark.parametrize("end", [3, 4, 5, 8], ids=["far left", "overlapping", "overlapping more", "right"])
def test_a_moved_window_holds_the_same_columns(end: int) -> None:
    rows = [[1, 2, 3], [4, 5, 6]]
    slab = filled(rows, columns=8, begin=3)
    slab.move_window(end)
    assert live(slab) == rows
    assert (slab.window.start, slab.window.end) == (end - 3, end)


def test_take_rows_replaces_leaving_rows_by_later_ones() -> None:
    slab = filled([[1, 1], [2, 2], [3, 3], [4, 4]], columns=4, begin=1)
    slab.take_rows([3, 1, 2])
    assert live(slab) == [[4, 4], [2, 2], [3, 3]]


def test_take_rows_may_leave_none() -> None:
    slab = filled([[1, 1]], columns=4)
    slab.take_rows([])
    assert live(slab) == []


def test_copy_row_aligns_the_newest_columns_at_the_right_edge_and_leaves_the_others() -> None:
    source = filled([[0, 0, 5, 6], [1, 2, 3, 4]], columns=4)
    target = filled([[7, 7, 7, 7, 7], [8, 8, 8, 8, 8]], columns=8, begin=1)
    target.copy_row(1, source, 0, 2)
    assert live(target) == [[7, 7, 7, 7, 7], [8, 8, 8, 5, 6]]


def test_clear_row_makes_one_row_finite_and_leaves_the_others() -> None:
    slab = filled([[1, 2], [3, 4]], columns=4)
    for buffer in slab.layers[0].buffers:
        buffer[0] = torch.nan
    slab.clear_row(0)
    assert live(slab) == [[0, 0], [3, 4]]


def test_clear_zeroes_everything_and_closes_the_window() -> None:
    slab = filled([[1, 2], [3, 4]], columns=4)
    slab.clear()
    assert (slab.window.rows, slab.window.start, slab.window.end) == (0, 0, 0)
    assert all(not buffer.any() for buffer in slab.layers[0].buffers)


def test_all_layers_share_one_window_and_have_their_own_shapes() -> None:
    slab = Slab(Storage([SHAPE, UNEVEN], 16), 2, 8)
    slab.window.end = 5
    assert [layer.get_seq_length() for layer in slab.layers] == [5, 5]
    keys, values = slab.layers[1].buffers
    assert (keys.shape, values.shape, keys.dtype) == ((2, 2, 8, 3), (2, 1, 8, 4), torch.bfloat16)


def test_bytes_per_token_counts_keys_and_values_of_all_layers() -> None:
    assert bytes_per_token([SHAPE, UNEVEN]) == (1 + 1) * 4 + (2 * 3 + 4) * 2
