"""The memory of a batch or of a prefill group, allocated once; on a CPU it is taken as it is used."""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .copies import TORCH_MOVES, Moves
from .layout import Layout, RecurrentShape, StateShape, TokenShape


@dataclass(frozen=True)
class RecurrentStorage:
    """One pair of states, each [rows, ...]."""

    conv: Tensor | None
    recurrent: Tensor | None

    @classmethod
    def allocate(cls, shape: RecurrentShape, rows: int) -> "RecurrentStorage":
        """Returns zeros."""
        return cls(_states(shape.conv, rows), _states(shape.recurrent, rows))

    @property
    def buffers(self) -> list[Tensor]:
        return [buffer for buffer in (self.conv, self.recurrent) if buffer is not None]


@dataclass(frozen=True)
class TokenStorage:
    """Keys and values of one layer, flat, for a number of tokens."""

    shape: TokenShape
    keys: Tensor
    values: Tensor

    @classmethod
    def allocate(cls, shape: TokenShape, tokens: int) -> "TokenStorage":
        """Returns zeros."""
        counts = (tokens * shape.key_heads * shape.key_dim, tokens * shape.value_heads * shape.value_dim)
        keys, values = (zeros(count, dtype=shape.dtype, device=shape.device) for count in counts)
        return cls(shape, keys, values)

    def behind(self, tokens: int) -> "TokenStorage":
        """Returns what is behind the first `tokens` tokens, as a storage of its own."""
        shape = self.shape
        keys = self.keys[tokens * shape.key_heads * shape.key_dim :]
        return TokenStorage(shape, keys, self.values[tokens * shape.value_heads * shape.value_dim :])

    def view(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Returns keys and values as [rows, heads, columns, dimension]. RuntimeError if there are too few tokens."""
        shape = self.shape
        keys = _view(self.keys, rows, shape.key_heads, columns, shape.key_dim)
        return keys, _view(self.values, rows, shape.value_heads, columns, shape.value_dim)


@dataclass(frozen=True)
class LayerStorage:
    """The memory of one layer."""

    tokens: TokenStorage | None
    states: tuple[RecurrentStorage, ...]

    @classmethod
    def allocate(cls, layout: Layout, tokens: int, rows: int) -> "LayerStorage":
        """Returns zeros."""
        return cls(
            TokenStorage.allocate(layout.tokens, tokens) if layout.tokens else None,
            tuple(RecurrentStorage.allocate(shape, rows) for shape in layout.states),
        )


class Storage:
    """Keys and values of `tokens` tokens and states of `rows` rows in every layer: one flat pool."""

    def __init__(self, layouts: Sequence[Layout], tokens: int, rows: int, moves: Moves = TORCH_MOVES) -> None:
        """Allocates it. `moves` is how keys and values are moved within it."""
        self.tokens, self.rows, self.moves = tokens, rows, moves
        self.layers = [LayerStorage.allocate(layout, tokens, rows) for layout in layouts]

    def behind(self, tokens: int) -> "Storage":
        """Returns what is behind the first `tokens` tokens of each layer, without states: those are not by token."""
        rest = Storage([], self.tokens - tokens, self.rows, self.moves)
        rest.layers = [LayerStorage(layer.tokens and layer.tokens.behind(tokens), ()) for layer in self.layers]
        return rest


def _states(shape: StateShape | None, rows: int) -> Tensor | None:
    return None if shape is None else zeros(rows, *shape.sizes, dtype=shape.dtype, device=shape.device)


def zeros(*sizes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns zeros, as torch.zeros does; a CPU's take no memory before they are written, page by page."""
    if device.type != "cpu":
        return torch.zeros(sizes, dtype=dtype, device=device)
    size = math.prod(sizes) * dtype.itemsize
    if not size:
        return torch.zeros(sizes, dtype=dtype)
    # The system's pages are zeros until they are written; torch would write them all. Not numpy's either: it asks for
    # huge pages, and the few columns of many rows touch them all.
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size / 2**30:.1f} GiB cannot be had: {error}") from error
    return torch.frombuffer(memory, dtype=dtype).view(sizes)


def _view(flat: Tensor, *sizes: int) -> Tensor:
    return flat[: math.prod(sizes)].view(sizes)
