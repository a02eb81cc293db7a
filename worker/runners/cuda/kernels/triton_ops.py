"""The operations of a captured step as Triton kernels. Importing this needs Triton."""

import torch
from torch import Tensor

from . import attention_kernels, layer_kernels
from .ops import Bounds, Pool, Rotation
from .tiling import attention_parts, columns_at_once
from .variants import launch

_WIDTH_AT_ONCE = 1024
_LEAST_OF_A_PRODUCT = 16
"""Rows that Triton's matrix product takes at least."""


class TritonOps:
    """Implements Ops."""

    def __init__(self, processors: int) -> None:
        """Takes the number of the device's multiprocessors."""
        self.processors = processors

    def write(self, keys: Tensor, values: Tensor, pool: Pool, bounds: Bounds) -> None:
        """See Ops."""
        for given, memory in ((keys, pool.keys), (values, pool.values)):
            rows, heads, dim = given.shape
            launch(
                attention_kernels.write_column,
                (rows, heads),
                given,
                memory,
                *_places(bounds),
                *given.stride()[:2],
                HEADS=heads,
                DIM=dim,
                BLOCK_DIM=_power_of_two(dim),
            )

    def attend(self, query: Tensor, pool: Pool, bounds: Bounds, *, scaling: float, window: int = 0) -> Tensor:
        """See Ops."""
        rows, heads, key_dim = query.shape
        value_dim = pool.values.shape[-1]
        parts = attention_parts(rows * pool.heads, self.processors)
        sums = torch.empty(rows, heads, parts, value_dim, dtype=torch.float32, device=query.device)
        tops, totals = torch.empty(2, rows, heads, parts, dtype=torch.float32, device=query.device)
        group = heads // pool.heads
        launch(
            attention_kernels.attend_part,
            (rows, pool.heads, parts),
            query,
            pool.keys,
            pool.values,
            *_places(bounds),
            sums,
            tops,
            totals,
            scaling,
            *query.stride()[:2],
            window,
            HEADS=pool.heads,
            GROUP=group,
            KEY_DIM=key_dim,
            VALUE_DIM=value_dim,
            PARTS=parts,
            BLOCK_GROUP=max(_LEAST_OF_A_PRODUCT, _power_of_two(group)),
            BLOCK_KEY=max(_LEAST_OF_A_PRODUCT, _power_of_two(key_dim)),
            BLOCK_VALUE=max(_LEAST_OF_A_PRODUCT, _power_of_two(value_dim)),
            BLOCK=columns_at_once(max(key_dim, value_dim) * query.element_size()),
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        )
        out = torch.empty(rows, heads, value_dim, dtype=query.dtype, device=query.device)
        launch(
            attention_kernels.join_parts,
            (rows * heads,),
            sums,
            tops,
            totals,
            out,
            VALUE_DIM=value_dim,
            PARTS=parts,
            BLOCK_VALUE=_power_of_two(value_dim),
        )
        return out

    def rms_norm(self, given: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """See Ops."""
        out = torch.empty_like(given)
        _norm(given, None, weight, total=given, out=out, epsilon=epsilon)
        return out

    def add_rms_norm(self, given: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """See Ops."""
        out, total = torch.empty_like(given), torch.empty_like(given)
        _norm(given, residual, weight, total=total, out=out, epsilon=epsilon)
        return out, total

    def rotate_and_write(self, projected: Tensor, rotation: Rotation, pool: Pool, bounds: Bounds) -> Tensor:
        """See Ops."""
        rows, dim = len(projected), pool.keys.shape[-1]
        queries = projected.shape[1] // dim - 2 * pool.heads
        query = torch.empty(rows, queries, dim, dtype=projected.dtype, device=projected.device)
        norms = (rotation.query_norm, rotation.key_norm)
        launch(
            layer_kernels.rotate_and_write,
            (rows, queries + 2 * pool.heads),
            projected,
            rotation.cos,
            rotation.sin,
            *(projected if norm is None else norm for norm in norms),
            query,
            pool.keys,
            pool.values,
            *_places(bounds),
            rotation.epsilon,
            QUERIES=queries,
            HEADS=pool.heads,
            DIM=dim,
            BLOCK=_power_of_two(dim),
            NORMS=None not in norms,
        )
        return query

    def silu_multiply(self, projected: Tensor) -> Tensor:
        """See Ops."""
        rows, width = len(projected), projected.shape[1] // 2
        out = torch.empty(rows, width, dtype=projected.dtype, device=projected.device)
        blocks = -(-width // _WIDTH_AT_ONCE)
        launch(layer_kernels.silu_multiply, (rows, blocks), projected, out, WIDTH=width, BLOCK=_WIDTH_AT_ONCE)
        return out


def _places(bounds: Bounds) -> tuple[Tensor, Tensor, Tensor]:
    return bounds.lengths, bounds.end, bounds.columns


def _norm(
    given: Tensor, residual: Tensor | None, weight: Tensor, *, total: Tensor, out: Tensor, epsilon: float
) -> None:
    rows, width = given.shape
    launch(
        layer_kernels.rms_norm,
        (rows,),
        given,
        given if residual is None else residual,
        weight,
        total,
        out,
        epsilon,
        WIDTH=width,
        BLOCK=_power_of_two(width),
        ADDS=residual is not None,
        num_warps=8 if width >= 2048 else 4,
    )


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
