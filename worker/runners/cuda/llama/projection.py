"""The linear layers of a captured step: those that read the same input as one product, each by its fastest way.

A 4-bit matrix can be multiplied in several ways: bitsandbytes' operator, which for some shapes dequantizes the whole
matrix on each call, a dequantized copy that stays in memory, and our own kernels. Which is fastest depends on the card,
the shape and the rows, so it is measured where it runs, and what computes something else is left out.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..kernels.kernel_check import difference, tolerance
from . import matrix
from .matrix import FourBitMatrix

logger = logging.getLogger(__name__)

Product = Callable[[Tensor], Tensor]
"""Returns [rows, outputs] for [rows, inputs]."""
Timer = Callable[[Callable[[], object]], float]
"""Returns the seconds that a piece of work takes on the device."""
LIBRARY, RESIDENT = "bitsandbytes", "resident copy"


class MoreWays(Protocol):
    """Further ways to multiply with a matrix."""

    def __call__(self, matrix: FourBitMatrix, rows: int, /) -> dict[str, Product]:
        """Returns products for so many rows, by name; none where there is no further way."""
        ...


class FourBitProjection:
    """A product with a 4-bit matrix, by bitsandbytes unless another way was chosen for a number of rows."""

    def __init__(self, matrix: FourBitMatrix) -> None:
        self.matrix = matrix
        self.resident: Tensor | None = None
        """The matrix in the type that the model computes in, [outputs, inputs], if there is a copy."""
        self.chosen: dict[int, Product] = {}
        """By the number of rows."""

    @property
    def shape(self) -> tuple[int, int, torch.device]:
        return self.matrix.outputs, self.matrix.inputs, self.matrix.packed.device

    def __call__(self, given: Tensor) -> Tensor:
        """Returns [rows, outputs] for [rows, inputs]."""
        return self.chosen.get(len(given), self.by_library)(given)

    def by_library(self, given: Tensor) -> Tensor:
        """Multiplies with bitsandbytes' operator."""
        return self.matrix.multiply(given)

    def by_copy(self, given: Tensor) -> Tensor:
        """Multiplies with the copy."""
        assert self.resident is not None  # noqa: S101 - chosen only where there is one
        return linear(given, self.resident, self.matrix.bias)


def project(layers: Sequence[nn.Module]) -> Product:
    """Returns the product with layers that read the same input, their outputs behind one another."""
    if matrix.can_fuse(layers):
        return FourBitProjection(matrix.fuse(layers))
    if all(type(layer) is nn.Linear for layer in layers):
        return _plain([layer for layer in layers if isinstance(layer, nn.Linear)])
    return lambda given: torch.cat([layer(given) for layer in layers], dim=-1)


def _plain(layers: Sequence[nn.Linear]) -> Product:
    """Puts matrices that are not quantized behind one another; the layers hold views of the result."""
    if len(layers) == 1:
        return layers[0]
    weight = torch.cat([layer.weight.data for layer in layers])
    biases = [layer.bias.data for layer in layers if layer.bias is not None]
    bias = torch.cat(biases) if len(biases) == len(layers) else None
    if biases and bias is None:
        return lambda given: torch.cat([layer(given) for layer in layers], dim=-1)
    for layer, part in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    return lambda given: linear(given, weight, bias)


def choose(
    projections: Iterable[Product],
    row_counts: Sequence[int],
    *,
    dtype: torch.dtype,
    timer: Timer,
    more_ways: MoreWays,
    copy_bytes: int,
) -> None:
    """Measures the ways of all 4-bit projections and makes each take its fastest one for each number of rows.

    Projections of one shape are timed one after the other, so that no matrix is in the cache when its turn comes.

    Args:
        projections: the model's; those that are not 4-bit are left alone.
        row_counts: for how many rows.
        dtype: what the model computes in.
        timer: measures work on the device.
        more_ways: beside bitsandbytes' and a copy.
        copy_bytes: what dequantized copies may take in all.
    """
    shapes: dict[tuple[int, int, torch.device], list[FourBitProjection]] = defaultdict(list)
    for projection in projections:
        if isinstance(projection, FourBitProjection):
            shapes[projection.shape].append(projection)
    # The smallest first: they gain most from a copy for the memory that it takes.
    for (outputs, inputs, _), group in sorted(shapes.items(), key=lambda item: item[0][:2]):
        needed = len(group) * outputs * inputs * dtype.itemsize
        if needed <= copy_bytes:
            for projection in group:
                projection.resident = projection.matrix.dequantize(dtype)
        for rows in row_counts:
            _choose_way(group, rows, dtype, timer, more_ways)
        copy_bytes -= _drop_unused_copies(group, needed)


def _choose_way(
    group: Sequence[FourBitProjection], rows: int, dtype: torch.dtype, timer: Timer, more_ways: MoreWays
) -> None:
    first = group[0]
    given = torch.randn(rows, first.matrix.inputs, device=first.matrix.packed.device).to(dtype)
    exact = linear(given.float(), first.matrix.dequantize(dtype).float(), _wide(first.matrix.bias))
    offered = [_ways(projection, rows, more_ways) for projection in group]
    times = {}
    for name, product in offered[0].items():
        try:
            if (error := difference(product(given), exact)) > tolerance(dtype):
                logger.warning("%s computes %s %s wrongly (by %.2g); not used", name, rows, first.shape, error)
                continue
            times[name] = timer(partial(_run_all, [ways[name] for ways in offered], given))
        except Exception as problem:
            if name == LIBRARY:
                raise
            logger.warning("%s cannot multiply %s %s: %s", name, rows, first.shape, problem)
    fastest = min(times, key=lambda name: times[name], default=LIBRARY)
    logger.debug("%s rows times %s: %s of %s", rows, first.shape, fastest, times)
    for projection, ways in zip(group, offered, strict=True):
        projection.chosen[rows] = ways[fastest]


def _run_all(products: Iterable[Product], given: Tensor) -> None:
    for product in products:
        product(given)


def _wide(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()


def _ways(projection: FourBitProjection, rows: int, more_ways: MoreWays) -> dict[str, Product]:
    ways: dict[str, Product] = {LIBRARY: projection.by_library}
    if projection.resident is not None:
        ways[RESIDENT] = projection.by_copy
    return ways | more_ways(projection.matrix, rows)


def _drop_unused_copies(group: Sequence[FourBitProjection], needed: int) -> int:
    """Frees the copies of a shape if no number of rows takes them. Returns the bytes that the copies keep."""
    if group[0].resident is not None and any(way == group[0].by_copy for way in group[0].chosen.values()):
        return needed
    for projection in group:
        projection.resident = None
    return 0
