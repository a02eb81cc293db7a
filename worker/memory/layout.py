"""What a model's layers keep: keys and values for each token, states of fixed size for each row, or nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenShape:
    """Keys and values of one token in one layer."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        return (self.key_heads * self.key_dim + self.value_heads * self.value_dim) * self.dtype.itemsize


@dataclass(frozen=True)
class StateShape:
    """A state of fixed size, of one row in one layer."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        return math.prod(self.sizes) * self.dtype.itemsize


@dataclass(frozen=True)
class RecurrentShape:
    """One pair of states of a Mamba or linear attention layer. A short convolution has no recurrent state."""

    conv: StateShape | None
    recurrent: StateShape | None

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in (self.conv, self.recurrent) if shape)

    @property
    def device(self) -> torch.device:
        """Returns where it is: both states are on one device."""
        return next(shape.device for shape in (self.conv, self.recurrent) if shape)


@dataclass(frozen=True)
class Layout:
    """What one layer keeps; a hybrid layer keeps both, a layer without attention nothing."""

    tokens: TokenShape | None = None
    states: tuple[RecurrentShape, ...] = ()


def devices(layouts: Sequence[Layout]) -> set[torch.device]:
    """Returns where layers keep what they keep."""
    return {shape.device for layout in layouts for shape in (layout.tokens, *layout.states) if shape}


def bytes_per_token(layouts: Sequence[Layout]) -> int:
    """Returns the memory of one token over all layers, in bytes."""
    return sum(layout.tokens.bytes for layout in layouts if layout.tokens)


def bytes_per_row(layouts: Sequence[Layout]) -> int:
    """Returns the memory of the states of one row over all layers, in bytes."""
    return sum(states.bytes for layout in layouts for states in layout.states)


def prefills_whole(layouts: Sequence[Layout]) -> bool:
    """Returns whether a prompt must be read in one chunk.

    Mamba's scan starts from zero whatever state it is given (`mamba_selective_scan` in transformers), and a row that
    enters its group with a later chunk has no state to continue from, so no recurrent layer is read in chunks.
    """
    return any(layout.states for layout in layouts)
