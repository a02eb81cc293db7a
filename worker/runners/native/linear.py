"""Linear layers as the C code takes them, and in place of bitsandbytes' forward pass."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...loading.cpu_level import Arithmetic
from ...loading.quantization.bitsandbytes_offline import bnb
from ...loading.quantization.quantization import fits_cpu_kernel
from .library import Library
from .steps import ROUNDING_BLOCK, int8_steps, int16_steps
from .structures import Linear

_ARITHMETICS: tuple[Arithmetic, ...] = ("exact", "int16", "int8")
"""In the order of linear.h."""
PACKED_OUTPUTS = 32
"""Outputs whose codes bitsandbytes packs together: linear.h."""
_UNROLLED_INPUTS = 32
"""A block of weights is walked through in steps of so many inputs."""
_PANEL_INPUTS = 1024
"""PANEL_INPUTS of every kind of CPU: blocks are not longer."""
_ROUNDS_BEFORE_BIASES = "transformers.models.falcon.modeling_falcon.FalconLinear"
"""A plain layer, but that it rounds the product before it adds biases."""


def shape(layer: Any) -> tuple[int, int]:  # noqa: ANN401 - bitsandbytes ships no types
    """Returns a linear layer's outputs and inputs."""
    if isinstance(layer, Conv1D):  # GPT-2's kind
        return layer.nf, layer.nx
    return layer.out_features, layer.in_features


def pack(layer: Any) -> None:  # noqa: ANN401 - bitsandbytes ships no types
    """Brings a 4-bit layer into the layout for CPUs, as its first forward pass would."""
    state = layer.weight.quant_state
    if not getattr(state, "packing_format_for_cpu", False):
        layer.weight.data, layer.weight.quant_state = bnb.functional._convert_weight_packed_for_cpu(  # noqa: SLF001 - what Linear4bit.forward calls; there is no public name
            layer.weight.data, state
        )


class NativeLinear:
    """A layer's weights for the C code, or those of some of its outputs. The weights are the layer's own."""

    def __init__(self, layer: Any, arithmetic: Arithmetic = "exact", outputs: range | None = None) -> None:  # noqa: ANN401 - bitsandbytes ships no types
        """Takes a packed 4-bit layer, with what it multiplies with if it can; or a plain one in bfloat16.

        Of a 4-bit layer the outputs begin and end at multiples of PACKED_OUTPUTS.
        """
        all_outputs, self.inputs = shape(layer)
        outputs = range(all_outputs) if outputs is None else outputs
        rows = slice(outputs.start, outputs.stop)
        self.outputs = len(outputs)
        self.arithmetic: Arithmetic = "exact"
        self._tensors: tuple[Any, ...]
        if isinstance(layer, bnb.nn.Linear4bit) and (arithmetic != "int8" or rounds_int8(layer)):
            self.arithmetic = arithmetic
        bias = layer.bias
        if bias is not None:
            # As bitsandbytes' kernel takes it. With int16 it would be the only thing of a product to be rounded so.
            bias = bias.float() if self.arithmetic == "int16" else bias.to(torch.bfloat16).float()
        bias = None if bias is None else bias[rows]
        if isinstance(layer, bnb.nn.Linear4bit):
            state = layer.weight.quant_state
            codes = layer.weight.data.view(-1, PACKED_OUTPUTS * self.inputs // 2)
            codes = codes[rows.start // PACKED_OUTPUTS : rows.stop // PACKED_OUTPUTS]
            scales = state.absmax.view(-1, all_outputs)[:, rows].contiguous()
            # Kept here: the structure holds addresses alone.
            self._tensors = (codes, scales, state.code.to(torch.bfloat16), None, bias)
            block = state.blocksize
        else:
            self._tensors = (None, None, None, _by_outputs(layer)[rows], bias)
            block = 0
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in self._tensors)
        self.structure = Linear(*addresses, self.outputs, self.inputs, block, _ARITHMETICS.index(self.arithmetic))
        if self.arithmetic != "exact":
            steps = int16_steps if self.arithmetic == "int16" else int8_steps
            self._steps, self.structure.step = steps(layer.weight.quant_state.code.float())
            self.structure.steps = self._steps.data_ptr()


def takes_4bit(layer: Any) -> bool:  # noqa: ANN401 - bitsandbytes ships no types
    """Returns whether the C code computes with a 4-bit layer."""
    if not isinstance(layer, bnb.nn.Linear4bit) or layer.weight.device.type != "cpu":
        return False
    blocksize = layer.weight.quant_state.blocksize
    in_blocks = layer.in_features % blocksize == 0 and blocksize % _UNROLLED_INPUTS == 0 and blocksize <= _PANEL_INPUTS
    return bool(in_blocks and fits_cpu_kernel(layer.in_features, layer.out_features))


def rounds_int8(layer: nn.Module) -> bool:
    """Returns whether the C code can compute with a layer in int8: 4-bit weights, in blocks of 64 or a multiple."""
    return takes_4bit(layer) and cast(Any, layer).weight.quant_state.blocksize % ROUNDING_BLOCK == 0


def takes_dense(layer: nn.Module) -> bool:
    """Returns whether the C code computes with a plain layer."""
    kind = type(layer)
    if kind not in {nn.Linear, Conv1D} and f"{kind.__module__}.{kind.__name__}" != _ROUNDS_BEFORE_BIASES:
        return False
    weight = cast(Tensor, layer.weight)
    # Conv1D's weights are put in order when they are described.
    in_order = kind is Conv1D or weight.is_contiguous()
    return in_order and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"


def _by_outputs(layer: Any) -> Tensor:  # noqa: ANN401 - as above
    """Returns a plain layer's weights, [outputs, inputs]; those of Conv1D, the other way round, are moved to lie so."""
    if not isinstance(layer, Conv1D):
        return cast(Tensor, layer.weight.data)
    if not layer.weight.data.T.is_contiguous():
        # Its own forward pass goes on with them, and there is no second copy.
        layer.weight.data = layer.weight.data.T.contiguous().T
    return layer.weight.data.T


def native_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the 4-bit layers of any model that can call the C code."""
    return [layer for layer in model.modules() if takes_4bit(layer) and not hasattr(layer, "_hf_hook")]


def take_over_linear_layers(model: nn.Module, library: Library, arithmetic: Arithmetic = "exact") -> int:
    """Makes the 4-bit layers of any model call the C code. Returns how many do.

    Results are those of bitsandbytes' kernel, which computes in bfloat16 whatever it is given; more exact with int16,
    which takes float32 as it is, and less with int8.
    """
    layers = native_layers(model)
    for layer in layers:
        pack(layer)
        layer.forward = _forward(NativeLinear(layer, arithmetic), library)
    return len(layers)


def _forward(layer: NativeLinear, library: Library) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if x.shape[-1] != layer.inputs:
            raise ValueError(f"the layer takes {layer.inputs} inputs, not {x.shape[-1]}")
        dtype = torch.float32 if layer.arithmetic == "int16" and x.dtype == torch.float32 else torch.bfloat16
        given = x.to(dtype).contiguous()
        product = torch.empty(*x.shape[:-1], layer.outputs, dtype=dtype)
        rows = given.numel() // layer.inputs
        library.linear(layer.structure, given.data_ptr(), rows, product.data_ptr(), wide=dtype == torch.float32)
        return product.to(x.dtype)

    return forward
