"""4-bit layers for tests, quantized by bitsandbytes."""

from typing import Any

import torch
from torch import nn

from worker.loading.quantization.bitsandbytes_offline import bnb

FOUR_BIT_SHAPES = [(32, 64), (96, 192), (72, 128)]
"""Outputs and inputs; the last has outputs that are no whole number of any block."""


def quantized(
    outputs: int,
    inputs: int,
    *,
    kind: str = "nf4",
    is_nested: bool = False,
    has_bias: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Any:
    """Returns a Linear4bit with random weights, as bitsandbytes makes it on a GPU: not packed for a CPU."""
    device = device or torch.device("cpu")
    layer = bnb.nn.Linear4bit(
        inputs, outputs, bias=has_bias, compute_dtype=dtype, compress_statistics=is_nested, quant_type=kind
    )
    weight = torch.randn(outputs, inputs, device=device).to(dtype)
    packed, state = bnb.functional.quantize_4bit(weight, compress_statistics=is_nested, quant_type=kind)
    layer.weight = bnb.nn.Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True)
    if has_bias:
        layer.bias = nn.Parameter(torch.randn(outputs, device=device).to(dtype), requires_grad=False)
    return layer
