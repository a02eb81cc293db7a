"""Puts the runner of a model on a CPU with AVX512-BF16 together, as far as the C code takes the model.

bitsandbytes' own kernel for these CPUs is as exact, but what calls it costs as much as the arithmetic: Python between
the layers, and copies and padding that attention does not need. The C code is compiled when a worker first starts, and
kept. Where it cannot be compiled, or a model is built otherwise, transformers and bitsandbytes compute as ever.

Asked to, it rounds the activations of 4-bit products to int8, which is faster and less exact.
"""

import logging
from typing import Any

import torch

from ...domain.config import Activations
from .library import NativeError, load
from .linear import native_layers, rounds_int8, take_over_linear_layers
from .llama import obstacle
from .runner import NativeRunner

logger = logging.getLogger(__name__)


def native_runner(model: Any, activations: Activations = "exact") -> NativeRunner | None:  # noqa: ANN401 - transformers models share no useful static type
    """Makes the C code compute what it can of a model.

    Returns what runs the whole model; None if transformers has to, with 4-bit products in C if there are any.
    Raises ValueError if activations are to be int8, and there is no C code or no layer for them.
    """
    int8 = activations == "int8"
    try:
        library = load(torch.get_num_threads())
    except NativeError as error:
        if int8:
            raise ValueError(f"--activations int8: the CPU's kernels cannot be compiled: {error}") from error
        logger.warning("the CPU's kernels cannot be compiled, which makes the model slower: %s", error)
        return None
    if int8:
        _announce_int8(model)
    layers = take_over_linear_layers(model, library, int8=int8)
    reason = obstacle(model)
    if reason:
        logger.info("4-bit products of %d layers run in C, the rest of the model in Python: %s", layers, reason)
        return None
    logger.info("the whole model runs in C: %s", library.path)
    return NativeRunner(model, library, int8=int8)


def _announce_int8(model: Any) -> None:  # noqa: ANN401 - as above
    layers = native_layers(model)
    rounding = sum(map(rounds_int8, layers))
    if not rounding:
        raise ValueError("--activations int8: the model has no layer of 4-bit weights in blocks of 64 or a multiple")
    logger.warning(
        "the activations of %d of %d 4-bit layers are rounded to int8: results are inexact", rounding, len(layers)
    )
