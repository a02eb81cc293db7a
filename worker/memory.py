"""What the keys and values of a model need, and how many rows and columns a budget holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from .slab import LayerShape, bytes_per_token

_SLACK = 1.5
"""Columns per token of the longest sequence: with fewer, the window would slide too often."""
_LEAST_ROWS = 4
_COLUMN_STEP = 64
_GPU_SHARE, _CPU_SHARE = 0.8, 0.25


class UnsupportedModelError(Exception):
    """The model cannot be served; the message says why, in one sentence."""


@dataclass(frozen=True)
class Room:
    """How the memory for keys and values is divided."""

    rows: int
    columns: int
    context_length: int
    """Most tokens of one sequence."""
    bytes_total: int
    """Memory of the batch and of the largest prefill group."""


def probe_shapes(model: Any) -> list[LayerShape]:  # noqa: ANN401 - transformers models share no useful static type
    """Runs one token through the model and returns what each layer keeps of it.

    Raises UnsupportedModelError for layers that keep something else than keys and values for each token.
    """
    cache = DynamicCache(config=model.config)
    _check_layers(cache, model)
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        model(input_ids=token, attention_mask=torch.ones_like(token), past_key_values=cache, use_cache=True)
    return [_shape(layer) for layer in cache.layers]


def _check_layers(cache: DynamicCache, model: Any) -> None:  # noqa: ANN401 - as above
    for layer in cache.layers:
        if type(layer) not in {DynamicLayer, DynamicSlidingWindowLayer}:
            raise UnsupportedModelError(
                f"{type(model).__name__} has layers of kind {type(layer).__name__}, whose state is not a key "
                "and a value for each token; textserve does not serve such models yet"
            )


def _shape(layer: Any) -> LayerShape:  # noqa: ANN401 - the base class types keys and values as optional
    keys: Tensor = layer.keys
    values: Tensor = layer.values
    return LayerShape(
        key_heads=keys.shape[1],
        key_dim=keys.shape[3],
        value_heads=values.shape[1],
        value_dim=values.shape[3],
        dtype=keys.dtype,
        device=keys.device,
    )


def free_bytes(devices: Sequence[torch.device]) -> int:
    """Returns how much of the devices' free memory keys and values may take by default."""
    gpus = [device for device in devices if device.type == "cuda"]
    if gpus:
        return int(_GPU_SHARE * sum(torch.cuda.mem_get_info(device)[0] for device in gpus))
    return int(_CPU_SHARE * psutil.virtual_memory().available)


def divide(shapes: Sequence[LayerShape], *, budget: int, max_rows: int, model_context: int) -> Room:
    """Divides a budget in bytes into rows and columns.

    One part holds the running batch, rows of 1.5 times the context; the other the prefill group, one longest prompt.
    What does not fit costs rows first, down to 4, then context. Raises UnsupportedModelError if not even 64 tokens fit.
    """
    tokens = budget // bytes_per_token(shapes)
    rows = max_rows
    while rows > _LEAST_ROWS and _needed(rows, model_context) > tokens:
        rows -= 1
    context = model_context
    if _needed(rows, context) > tokens:
        context = int((tokens - rows * _COLUMN_STEP) / (rows * _SLACK + 1))
    if context < min(_COLUMN_STEP, model_context):
        raise UnsupportedModelError(
            f"{budget:,} bytes hold {tokens:,} tokens, too few for {rows} sequences; "
            "give more --memory-gib or fewer --max-rows"
        )
    used = _needed(rows, context) * bytes_per_token(shapes)
    return Room(rows=rows, columns=_columns(context), context_length=context, bytes_total=used)


def _columns(context: int) -> int:
    return -(-int(context * _SLACK) // _COLUMN_STEP) * _COLUMN_STEP


def _needed(rows: int, context: int) -> int:
    return rows * _columns(context) + context
