"""The sizes that a memory plan needs: of a model that is loaded, and of one of which only config.json is read."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from ..domain.config import Config
from ..memory.layout import Layout, bytes_per_row, bytes_per_token
from ..memory.plan import ModelSize
from . import quantization
from .bitsandbytes_offline import bnb

_BLOCK, _NESTED_BLOCK = 64, 256
_WIDER = 4
"""Widths of an MLP, where config.json does not tell: as in GPT-2."""


def loaded_size(model: Any, layouts: Sequence[Layout], context: int) -> ModelSize:  # noqa: ANN401 - no static type
    """Returns the sizes of a model that is in memory."""
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    layers = [each for each in model.modules() if isinstance(each, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)]
    states = [state for each in layers if (state := getattr(each.weight, "quant_state", None)) is not None]
    numbers = [each.in_features * each.out_features for each in layers]
    return _size(
        model.config,
        layouts,
        context,
        weights=weights,
        scales=sum(map(scale_bytes, states)),
        matrices=numbers,
        dtype=model.dtype,
    )


def scale_bytes(state: Any) -> int:  # noqa: ANN401 - bitsandbytes ships no types
    """Returns the size of a 4-bit matrix's scales, and of the scales of those if they are quantized."""
    own: int = state.absmax.numel() * state.absmax.element_size()
    return own + (scale_bytes(state.state2) if state.nested else 0)


def expected_size(config: Config, skeleton: Any, layouts: Sequence[Layout], context: int) -> ModelSize:  # noqa: ANN401
    """Returns the sizes that a model will have on a GPU, once it is loaded with these settings.

    Args:
        config: how it is to be quantized, if its checkpoint is not.
        skeleton: the model without weights, in the type that it will compute in, not quantized.
        layouts: what its layers keep.
        context: most tokens of a sequence.
    """
    kind, kept, is_nested = _quantization(config, skeleton)
    matrices = [_numbers(module) for name, module in skeleton.named_modules() if _becomes(module, name, kind, kept)]
    quantized, itemsize = sum(matrices), skeleton.dtype.itemsize
    others = sum(each.numel() * each.element_size() for each in skeleton.parameters()) - quantized * itemsize
    blocks = quantized // _BLOCK
    scales = blocks + 4 * (blocks // _NESTED_BLOCK) if is_nested else 4 * blocks
    return _size(
        skeleton.config,
        layouts,
        context,
        weights=others + (quantized if kind == "int8" else quantized // 2),
        scales=0 if kind in {"int8", "none"} else scales,
        matrices=matrices,
        dtype=skeleton.dtype,
    )


def _quantization(config: Config, skeleton: Any) -> tuple[str, list[str], bool]:  # noqa: ANN401 - as above
    """Returns how a model will be quantized, which modules will not be, and whether scales will be, too."""
    stated: Any = getattr(skeleton.config, "quantization_config", None)
    if not quantization.is_quantized(skeleton.config):
        kept = [*get_keys_to_not_convert(skeleton), *quantization.layers_read_directly(skeleton), *config.skip_modules]
        return config.quantization, kept, config.double_quantization
    kept = stated.get("llm_int8_skip_modules") or get_keys_to_not_convert(skeleton)
    kind = "int8" if stated.get("load_in_8bit") else stated.get("bnb_4bit_quant_type", "nf4")
    return kind, [*kept], bool(stated.get("bnb_4bit_use_double_quant"))


def _becomes(module: nn.Module, name: str, kind: str, kept: list[str]) -> bool:
    # As transformers: exact classes alone.
    return kind != "none" and type(module) in {nn.Linear, Conv1D} and should_convert_module(name, kept)


def _numbers(module: Any) -> int:  # noqa: ANN401 - as above
    count: int = module.weight.numel()
    return count


def _size(
    model_config: Any,  # noqa: ANN401 - each family has its own config class
    layouts: Sequence[Layout],
    context: int,
    *,
    weights: int,
    scales: int,
    matrices: list[int],
    dtype: torch.dtype,
) -> ModelSize:
    text = model_config.get_text_config()
    return ModelSize(
        weights=weights,
        scales=scales,
        token=bytes_per_token(layouts),
        row=bytes_per_row(layouts),
        context=context,
        layers=len(layouts),
        width=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or _WIDER * text.hidden_size,
        vocabulary=text.vocab_size,
        largest_matrix=max(matrices, default=0),
        quantized=sum(matrices),
        itemsize=dtype.itemsize,
    )
