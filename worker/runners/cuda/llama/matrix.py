"""4-bit matrices as bitsandbytes keeps them on a GPU, and several that read the same input made into one.

Codes lie row after row, two in a byte, with one scale for each block of inputs. Where a row is a whole number of
blocks, rows can be put behind one another without a change of any code or scale, so a fused product is the same. The
layers go on working: what they hold become views of the fused matrix. Scales that were quantized themselves are taken
as float32: four bytes for a block in the place of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ....loading.quantization.bitsandbytes_offline import bnb


@dataclass(frozen=True)
class FourBitMatrix:
    """A matrix in blocks of 4-bit codes."""

    packed: Tensor
    """[outputs * inputs / 2, 1], uint8: the first code of a byte in its upper half."""
    absmax: Tensor
    """[outputs * inputs / blocksize], float32: the scale of each block."""
    code: Tensor
    """[16], float32: the value of each code."""
    bias: Tensor | None
    """[outputs]"""
    outputs: int
    inputs: int
    blocksize: int
    quant_type: str
    """"nf4" or "fp4"."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Returns [outputs, inputs], as bitsandbytes rounds it."""
        weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.packed, self.absmax, self.blocksize, self.quant_type, (self.outputs, self.inputs), dtype
        )
        return weight


def can_fuse(layers: Sequence[nn.Module]) -> bool:
    """Returns whether these are 4-bit layers of one kind, on one device, whose rows are whole blocks."""
    if not all(isinstance(layer, bnb.nn.Linear4bit) for layer in layers):
        return False
    kinds = {_kind(layer) for layer in layers}
    biases = {getattr(layer, "bias", None) is None for layer in layers}
    return len(kinds) == 1 and len(biases) == 1 and all(_has_whole_rows(layer) for layer in layers)


def _kind(layer: Any) -> tuple[object, ...]:  # noqa: ANN401 - bitsandbytes ships no types
    state = layer.weight.quant_state
    return layer.in_features, state.blocksize, state.quant_type, layer.weight.device, layer.compute_dtype


def _has_whole_rows(layer: Any) -> bool:  # noqa: ANN401 - as above
    state = layer.weight.quant_state
    is_plain = layer.weight.dtype == torch.uint8 and not getattr(state, "packing_format_for_cpu", False)
    return is_plain and layer.in_features % state.blocksize == 0


def fuse(layers: Sequence[Any]) -> FourBitMatrix:
    """Returns the layers' matrices as one, and makes the layers hold views of it. They must satisfy `can_fuse`."""
    for layer in layers:
        _flatten_scales(layer)
    first = layers[0]
    state = first.weight.quant_state
    sizes = [layer.out_features for layer in layers]
    biases = [layer.bias.data.to(first.compute_dtype) for layer in layers if layer.bias is not None]
    matrix = FourBitMatrix(
        packed=_concatenate([layer.weight.data.view(-1, 1) for layer in layers]),
        absmax=_concatenate([layer.weight.quant_state.absmax for layer in layers]),
        code=state.code.float(),
        bias=_concatenate(biases) if biases else None,
        outputs=sum(sizes),
        inputs=first.in_features,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
    )
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    for layer, (begin, end) in zip(layers, pairwise(ends), strict=True):
        _share(layer, matrix, begin, end)
    return matrix


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _flatten_scales(layer: Any) -> None:  # noqa: ANN401 - as above
    """Computes the scales that are quantized themselves, as bitsandbytes does in each forward pass."""
    state = layer.weight.quant_state
    if state.nested:
        scales = bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        state.absmax, state.nested, state.state2, state.offset = scales.float(), False, None, None


def _share(layer: Any, matrix: FourBitMatrix, begin: int, end: int) -> None:  # noqa: ANN401 - as above
    blocks = matrix.inputs // matrix.blocksize
    layer.weight.data = matrix.packed[begin * matrix.inputs // 2 : end * matrix.inputs // 2]
    layer.weight.quant_state.absmax = matrix.absmax[begin * blocks : end * blocks]
