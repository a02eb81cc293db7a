"""4-bit matrices as bitsandbytes keeps them on a GPU, and several that read the same input made into one.

Codes lie row after row, two in a byte, with one scale for each block of inputs. Where a row is a whole number of
blocks, rows can be put behind one another without a change of any code or scale, so a fused product is the same. The
layers go on working: what they hold become views of the fused matrix. Scales that are quantized themselves, in blocks
of 256, stay so where each layer has whole blocks of them, as all but tiny ones have; each part keeps its own mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ....loading.quantization.bitsandbytes_offline import bnb

_SCALES_IN_A_BLOCK = 256
"""As bitsandbytes' operators take for granted."""


@dataclass(frozen=True)
class NestedScales:
    """How the scales of a matrix are quantized: each is code[its byte] * absmax[its block] + the offset of its part."""

    absmax: Tensor
    """[scales / 256], float32"""
    code: Tensor
    """[256], float32: the value of each byte."""
    offsets: Tensor
    """[outputs], float32: the mean that was taken off the scales of each output's part."""
    parts: tuple[tuple[int, int, Tensor], ...]
    """First output, last output and one, and offset, [], of the layers that were fused."""


@dataclass(frozen=True)
class FourBitMatrix:
    """A matrix in blocks of 4-bit codes."""

    packed: Tensor
    """[outputs * inputs / 2, 1], uint8: the first code of a byte in its upper half."""
    absmax: Tensor
    """[outputs * inputs / blocksize]: the scale of each block, float32, or uint8 if scales are quantized themselves."""
    code: Tensor
    """[16], float32: the value of each code."""
    bias: Tensor | None
    """[outputs]"""
    outputs: int
    inputs: int
    blocksize: int
    quant_type: str
    """"nf4" or "fp4"."""
    nested: NestedScales | None = None
    """How its scales are quantized; None if they are not."""

    def scales(self) -> Tensor:
        """Returns the scale of each block, [outputs * inputs / blocksize], float32."""
        if self.nested is None:
            return self.absmax
        wide: Tensor = torch.ops.bitsandbytes.dequantize_blockwise.default(
            self.absmax, self.nested.absmax, self.nested.code, _SCALES_IN_A_BLOCK, torch.float32
        )
        return (wide.view(self.outputs, -1) + self.nested.offsets[:, None]).view(-1)

    def multiply(self, given: Tensor) -> Tensor:
        """Multiplies with bitsandbytes' operator: part by part where their scales have means of their own."""
        nested = self.nested
        if nested is None:
            return self._multiply(given, 0, self.outputs, self.absmax)
        products = []
        for begin, end, offset in nested.parts:
            blocks, coarse = self._blocks(begin, end), self._blocks(begin, end, _SCALES_IN_A_BLOCK)
            products.append(
                self._multiply(
                    given,
                    begin,
                    end,
                    nested.absmax[coarse],
                    absmax_8bit=self.absmax[blocks],
                    absmax_code=nested.code,
                    absmax_offset=offset,
                )
            )
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)

    def _multiply(self, given: Tensor, begin: int, end: int, absmax: Tensor, **nested: Tensor) -> Tensor:
        out: Tensor = torch.ops.bitsandbytes.gemm_4bit.default(
            given,
            self.packed[begin * self.inputs // 2 : end * self.inputs // 2],
            (end - begin, self.inputs),
            absmax,
            self.blocksize,
            self.quant_type,
            bias=None if self.bias is None else self.bias[begin:end],
            **nested,
        )
        return out

    def _blocks(self, begin: int, end: int, each: int = 1) -> slice:
        """Returns which blocks of inputs, or groups of `each` of them, outputs have."""
        blocks = self.inputs // self.blocksize
        return slice(begin * blocks // each, -(-end * blocks // each))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Returns [outputs, inputs], as bitsandbytes rounds it."""
        weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.packed, self.scales(), self.blocksize, self.quant_type, (self.outputs, self.inputs), dtype
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
    if not _can_stay_nested(layers):
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
        nested=_nested(layers) if state.nested else None,
    )
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    for layer, (begin, end) in zip(layers, pairwise(ends), strict=True):
        _share(layer, matrix, begin, end)
    return matrix


def _can_stay_nested(layers: Sequence[Any]) -> bool:
    """Returns whether all scales are quantized, alike, and in whole blocks: none reaches into the next layer."""
    states = [layer.weight.quant_state for layer in layers]
    if not all(state.nested and state.state2.blocksize == _SCALES_IN_A_BLOCK for state in states):
        return False
    are_whole = all(state.absmax.numel() % _SCALES_IN_A_BLOCK == 0 for state in states)
    return are_whole and all(torch.equal(state.state2.code, states[0].state2.code) for state in states[1:])


def _nested(layers: Sequence[Any]) -> NestedScales:
    states = [layer.weight.quant_state for layer in layers]
    sizes = [layer.out_features for layer in layers]
    offsets = [state.offset.float() for state in states]
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    return NestedScales(
        absmax=_concatenate([state.state2.absmax for state in states]),
        code=states[0].state2.code.float(),
        offsets=_concatenate([offset.expand(size) for offset, size in zip(offsets, sizes, strict=True)]).contiguous(),
        parts=tuple((begin, end, offset) for (begin, end), offset in zip(pairwise(ends), offsets, strict=True)),
    )


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
    state = layer.weight.quant_state
    state.absmax = matrix.absmax[begin * blocks : end * blocks]
    if matrix.nested is not None:
        first, last = begin * blocks // _SCALES_IN_A_BLOCK, end * blocks // _SCALES_IN_A_BLOCK
        state.state2.absmax = matrix.nested.absmax[first:last]
