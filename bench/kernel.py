"""bitsandbytes' 4-bit CPU kernel, called as its library offers it: the arithmetic without the Python around it.

The operator `torch.ops.bitsandbytes.gemv_4bit` spends about as much on checks and conversions as on a matrix of width
1024 with one row. Here the arguments are converted once, before anything is timed.
"""

import ctypes
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.timing import in_turn
from worker.loading.quantization.bitsandbytes_offline import bnb

FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
"""Layers that read the same input, by the last part of their names, and what they are called as one."""


@dataclass(frozen=True)
class Product:
    """A matrix product that is ready to run: `run` computes `out`, [rows, outputs], and allocates nothing."""

    shape: str
    """What it is a product with, such as "down_proj 1024x2816"."""
    run: Callable[[], object]
    out: Tensor


@dataclass(frozen=True)
class Matrix:
    """A 4-bit matrix, packed for the kernel."""

    name: str
    """Name of the layer, or of the layers fused into it."""
    packed: Tensor
    """Two codes a byte, [outputs, inputs / 2], in blocks of 32 outputs."""
    absmax: Tensor
    """Scale of each block of `blocksize` inputs, [inputs / blocksize, outputs], bfloat16."""
    blocksize: int
    quant_type: str
    """"nf4" or "fp4"."""

    @property
    def outputs(self) -> int:
        return self.packed.shape[0]

    @property
    def inputs(self) -> int:
        return 2 * self.packed.shape[1]

    @property
    def shape(self) -> str:
        """Returns the last part of the name, and outputs times inputs."""
        return f"{self.name.rsplit('.', 1)[-1]} {self.outputs}x{self.inputs}"

    def product(self, given: Tensor) -> Product:
        """Returns the kernel's product with `given`, [rows, inputs], bfloat16, contiguous."""
        rows = len(given)
        out = torch.empty(rows, self.outputs, dtype=torch.bfloat16)
        sizes = [ctypes.c_int64(size) for size in (rows, self.outputs, self.inputs)]
        data = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (given, self.packed, self.absmax, out)]
        strides = [ctypes.c_int64(size) for size in (self.blocksize, self.inputs, self.outputs)]
        kernel = getattr(bnb.cextension.lib, f"gemv_4bit_inference_cpu_{self.quant_type}_bf16")
        return Product(self.shape, _Call(partial(kernel, *sizes, *data, *strides), (given, self, out)), out)


@dataclass(frozen=True)
class _Call:
    """A call by addresses, and the owners of what is there."""

    call: Callable[[], object]
    owners: tuple[object, ...]

    def __call__(self) -> object:
        return self.call()


def matrices(model: nn.Module) -> list[Matrix]:
    """Returns a model's 4-bit matrices in the order of its layers; packs those that no forward pass has packed yet."""
    return [_matrix(name, layer) for name, layer in four_bit_layers(model)]


def four_bit_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Returns the model's 4-bit layers and their names."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)]


def _matrix(name: str, layer: Any) -> Matrix:  # noqa: ANN401 - bitsandbytes ships no types
    if not getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
        layer(torch.zeros(1, layer.in_features, dtype=torch.bfloat16))
    state = layer.weight.quant_state
    return Matrix(name, layer.weight.data, state.absmax.to(torch.bfloat16), state.blocksize, state.quant_type)


def fuse(separate: Sequence[Matrix]) -> list[Matrix]:
    """Returns the same matrices with those that read the same input as one; their products are bit-equal.

    An output's codes and scales are all that it is computed from, so outputs can be put behind one another in whole
    blocks of 32.
    """
    return [_concatenate(name, parts) for name, parts in _groups(separate).items()]


def fused_is_bit_equal(separate: Sequence[Matrix]) -> bool:
    """Returns whether the products of fused matrices are those of their parts, with one row and with several."""
    groups = _groups(separate)
    return all(_is_bit_equal(parts, rows) for rows in (1, 5, 16) for parts in groups.values())


def _groups(separate: Sequence[Matrix]) -> dict[str, list[Matrix]]:
    groups: dict[str, list[Matrix]] = defaultdict(list)
    for matrix in separate:
        block, _, layer = matrix.name.rpartition(".")
        groups[f"{block}.{FUSED.get(layer, layer)}"].append(matrix)
    return groups


def _concatenate(name: str, parts: Sequence[Matrix]) -> Matrix:
    first = parts[0]
    if len(parts) == 1:
        return first
    packed = torch.cat([part.packed for part in parts])
    absmax = torch.cat([part.absmax for part in parts], dim=1)
    return Matrix(name, packed, absmax, first.blocksize, first.quant_type)


def _is_bit_equal(parts: Sequence[Matrix], rows: int) -> bool:
    given = torch.randn(rows, parts[0].inputs).bfloat16()
    products = [matrix.product(given) for matrix in (*parts, _concatenate("", parts))]
    in_turn(product.run for product in products)()
    *separate, fused = (product.out for product in products)
    return torch.equal(torch.cat(separate, dim=1), fused)
