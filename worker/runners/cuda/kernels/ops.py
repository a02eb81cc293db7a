"""What a captured decode step computes beside matrix products. Two sets of it: Triton's kernels, and plain torch."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ....memory.storage import TokenStorage

ABSENT = -1
"""The length of a row of the bucket that the batch does not have. Nothing is read or written for it."""


@dataclass(frozen=True)
class Bounds:
    """Where the rows' tokens are in the pool, known to the device alone: a captured step bakes in none of it."""

    lengths: Tensor
    """[rows], int64: tokens of each row that are in the pool; ABSENT where there is no row."""
    end: Tensor
    """[], int64: the column that the step writes; row r's tokens are in columns [end - lengths[r], end)."""
    columns: Tensor
    """[], int64: columns of the view of the pool, as [rows, heads, columns, dimension]."""


@dataclass(frozen=True)
class Pool:
    """The keys and values of one layer, whatever their present view as rows and columns."""

    keys: Tensor
    """[1, heads, tokens, dimension]: all of the flat memory. Only its address and its sizes mean anything."""
    values: Tensor
    """The same of the values; the dimension may differ."""

    @classmethod
    def of(cls, tokens: TokenStorage) -> "Pool":
        """Raises ValueError if keys and values have different numbers of heads."""
        shape = tokens.shape
        if shape.key_heads != shape.value_heads:
            raise ValueError(f"{shape.key_heads} heads of keys, but {shape.value_heads} of values")
        return cls(
            tokens.keys.view(1, shape.key_heads, -1, shape.key_dim),
            tokens.values.view(1, shape.value_heads, -1, shape.value_dim),
        )

    @property
    def heads(self) -> int:
        return self.keys.shape[1]


@dataclass(frozen=True)
class Rotation:
    """How queries and keys are turned by their positions (RoPE, Su et al. 2021), behind a norm in some models."""

    cos: Tensor
    """[rows, dimension], the halves equal."""
    sin: Tensor
    """[rows, dimension]"""
    query_norm: Tensor | None = None
    """[dimension]: weights of an RMSNorm of each head's query, in models that have one."""
    key_norm: Tensor | None = None
    """[dimension]: the same for keys."""
    epsilon: float = 0.0


class Ops(Protocol):
    """None of them copies to the host or waits for the device, so all of them can be captured.

    Sums are computed in float32; results have the type of what is given, rounded where transformers' models round.
    """

    def write(self, keys: Tensor, values: Tensor, pool: Pool, bounds: Bounds) -> None:
        """Writes [rows, heads, dimension] into the column `end` of the rows that are there."""
        ...

    def attend(self, query: Tensor, pool: Pool, bounds: Bounds, *, scaling: float, window: int = 0) -> Tensor:
        """Attends from one query for each row to the row's tokens, up to and with the column `end`.

        Args:
            query: [rows, heads, dimension]; heads are a multiple of the pool's, as in grouped-query attention.
            pool: where the keys and values are.
            bounds: which of them are the row's.
            scaling: factor of the scores.
            window: how many of the newest tokens are seen; 0: all.

        Returns [rows, heads, dimension of the values]; zeros where there is no row.
        """
        ...

    def rms_norm(self, given: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Normalizes [rows, width] (Zhang and Sennrich 2019)."""
        ...

    def add_rms_norm(self, given: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Returns the normalized sum of both, and the sum, each [rows, width]."""
        ...

    def rotate_and_write(self, projected: Tensor, rotation: Rotation, pool: Pool, bounds: Bounds) -> Tensor:
        """Turns queries and keys by their positions, and writes keys and values as `write` does.

        Args:
            projected: [rows, (heads + 2 * the pool's heads) * dimension]: queries, keys, values.
            rotation: by which angles.
            pool: where keys and values go.
            bounds: the column.

        Returns the queries, [rows, heads, dimension].
        """
        ...

    def silu_multiply(self, projected: Tensor) -> Tensor:
        """Returns silu(gate) * up of [rows, 2 * width], gate first (SwiGLU, Shazeer 2020)."""
        ...
