"""Linear layers as the C code takes them, and in place of bitsandbytes' forward pass."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..bitsandbytes_offline import bnb
from ..quantization import fits_cpu_kernel
from .library import Library
from .structures import Linear

logger = logging.getLogger(__name__)

_UNROLLED_INPUTS = 8
"""A block of weights is walked through in steps of so many inputs."""
_PANEL_INPUTS = 1024
"""As in linear.h: blocks are not longer."""


def pack(layer: Any) -> None:  # noqa: ANN401 - bitsandbytes ships no types
    """Brings a 4-bit layer into the layout for CPUs, as its first forward pass would."""
    state = layer.weight.quant_state
    if not getattr(state, "packing_format_for_cpu", False):
        layer.weight.data, layer.weight.quant_state = bnb.functional._convert_weight_packed_for_cpu(  # noqa: SLF001 - what Linear4bit.forward calls; there is no public name
            layer.weight.data, state
        )


class NativeLinear:
    """A layer's weights for the C code. The tensors are the layer's own."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 - bitsandbytes ships no types
        """Takes a packed 4-bit layer, or an nn.Linear in bfloat16."""
        self.outputs, self.inputs = layer.out_features, layer.in_features
        bias = layer.bias
        if bias is not None:
            bias = bias.to(torch.bfloat16)
        if isinstance(layer, bnb.nn.Linear4bit):
            state = layer.weight.quant_state
            # Kept here: the structure holds addresses alone.
            self._tensors = (layer.weight.data, state.absmax, state.code.to(torch.bfloat16), None, bias)
            block = state.blocksize
        else:
            self._tensors = (None, None, None, layer.weight.data, bias)
            block = 0
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in self._tensors)
        self.structure = Linear(*addresses, self.outputs, self.inputs, block)


def takes_4bit(layer: nn.Module) -> bool:
    """Returns whether the C code computes with a 4-bit layer."""
    if not isinstance(layer, bnb.nn.Linear4bit) or layer.weight.device.type != "cpu":
        return False
    blocksize = layer.weight.quant_state.blocksize
    in_blocks = layer.in_features % blocksize == 0 and blocksize % _UNROLLED_INPUTS == 0 and blocksize <= _PANEL_INPUTS
    return bool(in_blocks and fits_cpu_kernel(layer.in_features, layer.out_features))


def takes_dense(layer: nn.Module) -> bool:
    """Returns whether the C code computes with a plain layer."""
    weight = layer.weight if type(layer) is nn.Linear else None
    return (
        weight is not None and weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.is_contiguous()
    )


def take_over_linear_layers(model: nn.Module, library: Library) -> int:
    """Makes the 4-bit layers of any model call the C code. Returns how many do.

    Results are those of bitsandbytes' kernel, which computes in bfloat16 whatever it is given.
    """
    layers = [layer for layer in model.modules() if takes_4bit(layer) and not hasattr(layer, "_hf_hook")]
    for layer in layers:
        pack(layer)
        layer.forward = _forward(NativeLinear(layer), library)
    return len(layers)


def _forward(layer: NativeLinear, library: Library) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        given = x.to(torch.bfloat16).contiguous()
        product = torch.empty(*x.shape[:-1], layer.outputs, dtype=torch.bfloat16)
        library.linear(layer.structure, given.data_ptr(), given.numel() // layer.inputs, product.data_ptr())
        return product.to(x.dtype)

    return forward
