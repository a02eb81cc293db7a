"""The operations of a captured step in plain torch: what Triton's kernels are measured by, on any device.

Nothing here depends on values that only the device knows, so that these too can be traced and captured.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from .ops import Bounds, Pool, Rotation


class ReferenceOps:
    """Implements Ops. Attention reads all columns that a row could have, so it is for small pools."""

    def write(self, keys: Tensor, values: Tensor, pool: Pool, bounds: Bounds) -> None:
        """See Ops."""
        for given, memory in ((keys, pool.keys), (values, pool.values)):
            _write(given, memory, bounds)

    def attend(self, query: Tensor, pool: Pool, bounds: Bounds, *, scaling: float, window: int = 0) -> Tensor:
        """See Ops."""
        rows, heads, dim = query.shape
        seen, mask = _columns(pool, bounds, window)
        keys, values = _read(pool.keys, seen).float(), _read(pool.values, seen).float()
        grouped = query.float().reshape(rows, pool.heads, heads // pool.heads, dim)
        scores = (grouped @ keys.transpose(-1, -2) * scaling).masked_fill(~mask[:, None, None], -torch.inf)
        # A row that is absent sees nothing: softmax would make NaN of it.
        weights = scores.softmax(-1).where(mask.any(-1)[:, None, None, None], 0.0)
        values = values.where(mask[:, None, :, None], 0.0)
        return (weights @ values).reshape(rows, heads, -1).to(query.dtype)

    def rms_norm(self, given: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """See Ops."""
        wide = given.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        return weight * normed.to(given.dtype)

    def add_rms_norm(self, given: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """See Ops."""
        total = given + residual
        return self.rms_norm(total, weight, epsilon), total

    def rotate_and_write(self, projected: Tensor, rotation: Rotation, pool: Pool, bounds: Bounds) -> Tensor:
        """See Ops."""
        rows, dim = len(projected), pool.keys.shape[-1]
        heads = projected.view(rows, -1, dim)
        query, keys, values = heads.split([heads.shape[1] - 2 * pool.heads, pool.heads, pool.heads], dim=1)
        if rotation.query_norm is not None and rotation.key_norm is not None:
            query = self.rms_norm(query, rotation.query_norm, rotation.epsilon)
            keys = self.rms_norm(keys, rotation.key_norm, rotation.epsilon)
        self.write(_rotate(keys, rotation), values, pool, bounds)
        return _rotate(query, rotation)

    def silu_multiply(self, projected: Tensor) -> Tensor:
        """See Ops."""
        gate, up = projected.chunk(2, dim=-1)
        return silu(gate) * up


def _rotate(given: Tensor, rotation: Rotation) -> Tensor:
    first, second = given.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return given * rotation.cos[:, None] + turned * rotation.sin[:, None]


def _write(given: Tensor, memory: Tensor, bounds: Bounds) -> None:
    """Writes [rows, heads, dimension] into the column at the end of [1, heads, tokens, dimension]."""
    vectors = memory.view(-1, memory.shape[-1])
    places = _first_column(len(given), memory, bounds) + bounds.end
    is_there = (bounds.lengths >= 0)[:, None].expand(places.shape)
    # An absent row rewrites what is in the first column, which is never the one at the end.
    places = places.where(is_there, 0)
    vectors[places] = given.to(memory.dtype).where(is_there[..., None], vectors[places])


def _columns(pool: Pool, bounds: Bounds, window: int) -> tuple[Tensor, Tensor]:
    """Returns for each row, head and column which vector of the pool it is, and [rows, columns]: whether it is seen."""
    rows, tokens = len(bounds.lengths), pool.keys.shape[2]
    counts = bounds.lengths + 1
    counts = counts.clamp(max=window) if window else counts
    columns = torch.arange(tokens, device=bounds.lengths.device)
    mask = (columns <= bounds.end) & (columns > (bounds.end - counts)[:, None])
    places = _first_column(rows, pool.keys, bounds)[..., None] + columns
    return places.where(mask[:, None], 0), mask


def _first_column(rows: int, memory: Tensor, bounds: Bounds) -> Tensor:
    """Returns [rows, heads]: the place of each row's and head's column 0, in vectors."""
    heads = memory.shape[1]
    return torch.arange(rows * heads, device=memory.device).view(rows, heads) * bounds.columns


def _read(memory: Tensor, places: Tensor) -> Tensor:
    return memory.view(-1, memory.shape[-1])[places]
