"""Whether one GPU holds a model whole."""

import logging
from typing import Any

import torch

from ..domain.config import Config
from ..domain.refusal import UnsupportedModelError
from ..memory.buckets import row_buckets
from ..memory.budget import free_bytes
from ..memory.plan import Card, Demand, plan
from .facts import limit_of
from .probe import expected_layouts
from .quantization import quantization

logger = logging.getLogger(__name__)

_LEAST_ALONE = 4096
"""Tokens of context that must fit on one GPU, or as many as the model has, for others not to be used, too."""


def gpu_for_all(config: Config, model_config: Any, dtype: torch.dtype) -> int | None:  # noqa: ANN401 - each family has its own config class
    """Returns a GPU that a whole model fits on with keys and values, the one with most memory free; None without one.

    accelerate would spread a model over all GPUs that it sees, and then each step goes from one to the next.
    """
    if not torch.cuda.is_available():
        return None
    model: Any = quantization.skeleton(model_config).to(dtype).eval()
    try:
        layouts = expected_layouts(model)
    except UnsupportedModelError:
        return None  # it may still run where it has weights
    context = config.context_length or limit_of(model_config) or _LEAST_ALONE
    size = quantization.expected_size(config, model, layouts, context)
    gpus = {gpu: free_bytes(torch.device("cuda", gpu)) for gpu in range(torch.cuda.device_count())}
    for gpu in sorted(gpus, key=lambda gpu: gpus[gpu], reverse=True):
        total = torch.cuda.get_device_properties(gpu).total_memory
        try:
            found = plan(Card(total, gpus[gpu], config.workers_on_gpu), size, demand(config, is_loaded=False))
        except UnsupportedModelError:
            continue
        if found.room.context_length >= min(context, _LEAST_ALONE) or len(gpus) == 1:
            return gpu
    if len(gpus) > 1:
        logger.warning("it fits no GPU alone and is spread over %d: its steps are not captured", len(gpus))
    return None


def demand(config: Config, *, is_loaded: bool) -> Demand:
    """Returns what a config asks of a GPU's memory."""
    return Demand(
        rows=config.max_rows,
        chunk_tokens=4 * config.chunk_tokens,
        graphs=len(row_buckets(config.max_rows)) if config.cuda_graphs else 0,
        gib=config.memory_gib,
        share=config.memory_share,
        is_loaded=is_loaded,
    )
