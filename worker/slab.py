"""Preallocated keys and values for a left-padded batch, seen by transformers as an ordinary cache.

A slab is one buffer of [rows, heads, columns, dimension] for keys and one for values in each layer, a view of storage
that was allocated at start. All layers share a
window of columns: `start` is the first column that any row uses, `end` the first one not yet written. Rows are aligned
at `end`: the newest token of every row is in the same column, and a shorter row has padding to its left. What stands in
the padding is masked, but always finite: 0 times NaN would be NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class Window:
    """The columns and rows in use, shared by all layers."""

    rows: int = 0
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class LayerShape:
    """What one layer keeps for one token."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        values = self.key_heads * self.key_dim + self.value_heads * self.value_dim
        return values * self.dtype.itemsize


class Storage:
    """Keys and values of a number of tokens in every layer, allocated once, to be viewed as rows and columns."""

    def __init__(self, shapes: Sequence[LayerShape], tokens: int) -> None:
        self.shapes = shapes
        self.keys = [_flat(shape, tokens * shape.key_heads * shape.key_dim) for shape in shapes]
        self.values = [_flat(shape, tokens * shape.value_heads * shape.value_dim) for shape in shapes]


def _flat(shape: LayerShape, count: int) -> Tensor:
    return torch.zeros(count, dtype=shape.dtype, device=shape.device)


def _view(flat: Tensor, *sizes: int) -> Tensor:
    """Returns the first elements as [rows, heads, columns, dimension]. RuntimeError if there are too few."""
    return flat[: math.prod(sizes)].view(sizes)


class SlabLayer(CacheLayerMixin):
    """One layer's buffers. `update` writes at the window's end, in place, and returns the window."""

    is_sliding = False
    is_croppable = False

    def __init__(self, keys: Tensor, values: Tensor, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers types no constructor
        self.keys, self.values = keys, values
        self.window = window
        self.is_initialized = True

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None  # noqa: S101 - set for good in __init__; the base class types it as optional
        assert self.values is not None  # noqa: S101 - the same
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Does nothing: the memory is there from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes [rows, heads, new, dim] behind the window; returns the window with them. The window stays."""
        rows, new = key_states.shape[0], key_states.shape[2]
        start, end = self.window.start, self.window.end
        keys, values = self.buffers
        keys[:rows, :, end : end + new] = key_states
        values[:rows, :, end : end + new] = value_states
        return keys[:rows, :, start : end + new], values[:rows, :, start : end + new]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the number of columns that a query sees, and the offset of the first."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Returns the width of the window."""
        return self.window.end - self.window.start

    def get_max_length(self) -> int:
        """Returns the number of columns."""
        return self.buffers[0].shape[2]


class Slab:
    """All layers' buffers and their window."""

    def __init__(self, storage: Storage, rows: int, columns: int) -> None:
        """Views storage, of at least rows times columns tokens. What it held before is still there."""
        self.rows, self.columns = rows, columns
        self.window = Window()
        self.layers = [
            SlabLayer(
                _view(keys, rows, shape.key_heads, columns, shape.key_dim),
                _view(values, rows, shape.value_heads, columns, shape.value_dim),
                self.window,
            )
            for shape, keys, values in zip(storage.shapes, storage.keys, storage.values, strict=True)
        ]
        self.cache = Cache(layers=list(self.layers))

    def _buffers(self) -> list[Tensor]:
        return [buffer for layer in self.layers for buffer in layer.buffers]

    def move_window(self, end: int) -> None:
        """Copies the live columns so that the window ends at `end`."""
        window = self.window
        width, start = window.end - window.start, window.start
        target = end - width
        for buffer in self._buffers():
            live = buffer[: window.rows, :, start : start + width]
            # Source and target may overlap.
            buffer[: window.rows, :, target : target + width] = live.clone()
        window.start, window.end = target, end

    def take_rows(self, order: Sequence[int]) -> None:
        """Makes row i what row order[i] was, within the window. order[i] >= i, so that no source is lost."""
        window = self.window
        for target, source in enumerate(order):
            if source != target:
                for buffer in self._buffers():
                    buffer[target, :, window.start : window.end] = buffer[source, :, window.start : window.end]
        window.rows = len(order)

    def copy_row(self, row: int, source: "Slab", source_row: int, length: int) -> None:
        """Copies the newest `length` columns of another slab's row to the end of this slab's window."""
        for target, origin in zip(self._buffers(), source._buffers(), strict=True):  # noqa: SLF001 - the same class
            columns = origin[source_row, :, source.window.end - length : source.window.end]
            target[row, :, self.window.end - length : self.window.end] = columns

    def clear_row(self, row: int) -> None:
        """Zeroes a row, for one that holds values that are not finite."""
        for buffer in self._buffers():
            buffer[row].zero_()

    def clear(self) -> None:
        """Zeroes everything and closes the window."""
        for buffer in self._buffers():
            buffer.zero_()
        self.window.rows = self.window.start = self.window.end = 0


def bytes_per_token(shapes: Sequence[LayerShape]) -> int:
    """Returns the memory of one token over all layers, in bytes."""
    return sum(shape.bytes_per_token for shape in shapes)
