"""Linear layers with exactly known weights, and products in guarded memory."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.loading.cpu_level import Arithmetic
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.runners.native.library import Library
from worker.runners.native.linear import NativeLinear, pack

GUARD = 97
"""Numbers in front of and behind what may be touched."""
SENTINEL = -77.0


@dataclass(frozen=True)
class Matrix:
    """A layer, and what it computes with."""

    layer: Any
    weights: Tensor
    """Exact, float64 [outputs, inputs]."""
    unpacked: Any = None
    """The weight of a 4-bit layer as it was before it was packed."""

    def exact(self, x: Tensor) -> Tensor:
        """Returns the product for [rows, inputs], in float64."""
        bias = 0.0 if self.layer.bias is None else self.layer.bias.double()
        return x.double() @ self.weights.T + bias

    def tolerance(self, x: Tensor) -> Tensor:
        """Returns what rounding the result to bfloat16, and each of the sum's steps to float32, may make wrong."""
        summands = x.double().abs() @ self.weights.T.abs()
        return self.exact(x).abs() * 2**-8 + summands * 2**-16


def four_bit(
    outputs: int,
    inputs: int,
    *,
    kind: str = "nf4",
    blocksize: int = 64,
    double: bool = False,
    bias: bool = False,
    seed: int = 0,
) -> Matrix:
    """Returns a packed 4-bit layer."""
    generator = torch.Generator().manual_seed(seed)
    layer = quantized(torch.randn(outputs, inputs, generator=generator), kind=kind, blocksize=blocksize, double=double)
    if bias:
        layer.bias = nn.Parameter(torch.randn(outputs, generator=generator).bfloat16(), requires_grad=False)
    codes = layer.weight.data.flatten().long()
    table = layer.weight.quant_state.code.bfloat16().double()
    unpacked = copy.deepcopy(layer.weight)
    pack(layer)
    scales = layer.weight.quant_state.absmax.T.double().repeat_interleave(blocksize, dim=1)
    return Matrix(
        layer, table[torch.stack((codes >> 4, codes & 15), dim=1).reshape(outputs, inputs)] * scales, unpacked
    )


def quantized(weights: Tensor, *, kind: str = "nf4", blocksize: int = 64, double: bool = False) -> Any:
    """Returns a 4-bit layer with these weights, not yet packed."""
    outputs, inputs = weights.shape
    layer = bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=torch.bfloat16, quant_type=kind)
    layer.weight = bnb.nn.Params4bit(
        weights, requires_grad=False, blocksize=blocksize, quant_type=kind, compress_statistics=double
    )
    return layer.to("cpu").eval()


def dense(outputs: int, inputs: int, *, bias: bool = False, seed: int = 0) -> Matrix:
    """Returns a bfloat16 layer whose weights lie between NaNs."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16).requires_grad_(requires_grad=False)
    layer.weight.data = between(torch.randn(outputs, inputs, generator=generator), torch.nan)
    return Matrix(layer, layer.weight.double())


def between(values: Tensor, guard: float) -> Tensor:
    """Returns a copy in bfloat16, with other numbers in front of it and behind it in memory."""
    memory = torch.full((values.numel() + 2 * GUARD,), guard, dtype=torch.bfloat16)
    inside = memory[GUARD:-GUARD].view(values.shape)
    inside.copy_(values)
    return inside


def activations(rows: int, inputs: int, seed: int = 1) -> Tensor:
    """Returns bfloat16 [rows, inputs] between NaNs."""
    return between(torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed)), torch.nan)


def multiply(library: Library, layer: Any, x: Tensor, arithmetic: Arithmetic = "exact") -> Tensor:
    """Returns the C code's product in the type of x, after a look at the memory around it."""
    rows, outputs = len(x), layer.out_features
    memory = torch.full((rows * outputs + 2 * GUARD,), SENTINEL, dtype=x.dtype)
    product = memory[GUARD:-GUARD].view(rows, outputs)
    weights = NativeLinear(layer, arithmetic)
    library.linear(weights.structure, x.data_ptr(), rows, product.data_ptr(), wide=x.dtype == torch.float32)
    assert (memory[:GUARD] == SENTINEL).all(), "written in front of the product"
    assert (memory[-GUARD:] == SENTINEL).all(), "written behind the product"
    return product
