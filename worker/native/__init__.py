"""The model's arithmetic on CPUs with AVX512-BF16, in C: 4-bit products, and whole forward passes of models like Llama.

bitsandbytes' own kernel for these CPUs is as exact, but what calls it costs as much as the arithmetic: Python between
the layers, and copies and padding that attention does not need. The C code is compiled when a worker first starts, and
kept. Where it cannot be compiled, or a model is built otherwise, transformers and bitsandbytes compute as ever.
"""

import logging
from typing import Any

import torch

from .library import NativeError, load
from .linear import take_over_linear_layers
from .llama import obstacle
from .runner import NativeRunner

__all__ = ["native_runner"]

logger = logging.getLogger(__name__)


def native_runner(model: Any) -> NativeRunner | None:  # noqa: ANN401 - transformers models share no useful static type
    """Makes the C code compute what it can of a model.

    Returns what runs the whole model; None if transformers has to, with 4-bit products in C if there are any.
    """
    try:
        library = load(torch.get_num_threads())
    except NativeError as error:
        logger.warning("the CPU's kernels cannot be compiled, which makes the model slower: %s", error)
        return None
    layers = take_over_linear_layers(model, library)
    reason = obstacle(model)
    if reason:
        logger.info("4-bit products of %d layers run in C, the rest of the model in Python: %s", layers, reason)
        return None
    logger.info("the whole model runs in C: %s", library.path)
    return NativeRunner(model, library)
