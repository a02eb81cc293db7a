"""Whether the kernels of a captured step compute on this device what plain torch does, over lengths of all kinds.

The first steps of a model have short windows: what goes wrong only behind a thousand columns would not show in them.
"""

import torch
from torch import Tensor

from .ops import ABSENT, Bounds, Ops, Pool, Rotation
from .reference import ReferenceOps

_COLUMNS = 1500
_LENGTHS = (1400, 1, 0, 63, 64, 65, 700, ABSENT)
_WINDOW = 100
_MOST_HEADS = 2
"""Heads of keys that are tried: the reference takes much memory, and all heads are computed alike."""
_KERNEL_TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Largest relative difference of one operation's result."""
_TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of a row that rounding explains: it grows over the layers of a model."""


class WrongKernelError(Exception):
    """A kernel computes something else than it should on this device."""


def check_ops(ops: Ops, like: Pool, *, group: int) -> None:
    """Compares all operations with plain torch, on random numbers.

    Args:
        ops: what is checked.
        like: a layer's memory; its sizes, type and device are used, not what is in it.
        group: heads of queries for each head of keys.

    Raises WrongKernelError if a result differs by more than rounding.
    """
    like = Pool(like.keys[:, :_MOST_HEADS], like.values[:, :_MOST_HEADS])
    ours, theirs = (_Trial(each, like, group * like.heads) for each in (ops, ReferenceOps()))
    for name, result in ours.results.items():
        error = difference(result, theirs.results[name])
        if error > _KERNEL_TOLERANCES[like.keys.dtype]:
            raise WrongKernelError(f"{name} is wrong on this device, by {error:.3g}")


class _Trial:
    """The results of each operation on the same random numbers, by name."""

    def __init__(self, ops: Ops, like: Pool, heads: int) -> None:
        self._like = like
        self._generator = torch.Generator(like.keys.device).manual_seed(0)
        rows, dim = len(_LENGTHS), like.keys.shape[-1]
        places = torch.tensor([*_LENGTHS, _COLUMNS - 7, _COLUMNS], device=like.keys.device)
        bounds = Bounds(places[:-2], places[-2], places[-1])
        pool = self._pool(rows * _COLUMNS)
        self.results: dict[str, Tensor] = {}
        ops.write(self._random(rows, like.heads, dim), self._random(rows, *_value_shape(like)), pool, bounds)
        for name, window in (("attention", 0), ("sliding attention", _WINDOW)):
            query = self._random(rows, heads, dim)
            self.results[name] = ops.attend(query, pool, bounds, scaling=dim**-0.5, window=window)
        self._run_layer_ops(ops, heads * dim)
        if like.keys.shape == like.values.shape and dim % 2 == 0:
            self._run_rotations(ops, pool, bounds, heads)
        self.results["written keys"] = pool.keys[0].flatten(0, 1)
        self.results["written values"] = pool.values[0].flatten(0, 1)

    def _run_layer_ops(self, ops: Ops, width: int) -> None:
        rows = len(_LENGTHS)
        given, residual, weight = self._random(rows, width), self._random(rows, width), self._random(width)
        self.results["norm"] = ops.rms_norm(given, weight, 1e-5)
        self.results["norm of a sum"], self.results["sum"] = ops.add_rms_norm(given, residual, weight, 1e-5)
        self.results["activation"] = ops.silu_multiply(self._random(rows, 2 * width))

    def _run_rotations(self, ops: Ops, pool: Pool, bounds: Bounds, heads: int) -> None:
        rows, dim = len(_LENGTHS), pool.keys.shape[-1]
        angles = self._random(rows, dim // 2).float().repeat(1, 2)
        cos, sin = angles.cos().to(pool.keys.dtype), angles.sin().to(pool.keys.dtype)
        projected = self._random(rows, (heads + 2 * pool.heads) * dim)
        normed = Rotation(cos, sin, self._random(dim), self._random(dim), 1e-5)
        self.results["rotation behind a norm"] = ops.rotate_and_write(projected, normed, pool, bounds)
        self.results["rotation"] = ops.rotate_and_write(projected, Rotation(cos, sin), pool, bounds)

    def _pool(self, tokens: int) -> Pool:
        keys, values = self._like.keys, self._like.values
        return Pool(
            self._random(1, keys.shape[1], tokens, keys.shape[3]),
            self._random(1, values.shape[1], tokens, values.shape[3]),
        )

    def _random(self, *sizes: int) -> Tensor:
        like = self._like.keys
        return torch.randn(sizes, generator=self._generator, device=like.device).to(like.dtype)


def _value_shape(like: Pool) -> tuple[int, int]:
    return like.values.shape[1], like.values.shape[3]


def tolerance(dtype: torch.dtype) -> float:
    """Returns the largest `difference` of results in a type that is taken for rounding."""
    return _TOLERANCES[dtype]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Returns the largest |ours - theirs| / |theirs| of any row that is finite in theirs; infinity if ours is not.

    Where no row of theirs is finite it returns 0, which then says nothing.
    """
    ours, theirs = ours.flatten(1).float(), theirs.flatten(1).float()
    finite = theirs.isfinite().all(dim=1)
    if not finite.any():
        return 0.0
    ours, theirs = ours[finite], theirs[finite]
    if not ours.isfinite().all():
        return float("inf")
    error = (ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(error.max())
