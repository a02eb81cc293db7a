"""Puts what runs a model on a CPU together: the C code, compiled for the CPU's level, as far as it takes the model.

bitsandbytes has a kernel for CPUs with AVX512-BF16 alone, and what calls it costs as much as the arithmetic: Python
between the layers, and copies and padding that attention does not need. On other CPUs it dequantizes every weight in
every step. The C code is compiled when a worker first starts, and kept. Where it cannot be compiled, or a model is
built otherwise, transformers and bitsandbytes compute as ever.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...domain.config import Config
from ...loading.cpu_level import Arithmetic, CpuLevel, cpu_level
from ...loading.weights import runs_on_cpu
from . import obstacles
from .library import Library, NativeError, load
from .linear import native_layers, rounds_int8, take_over_linear_layers
from .runner import NativeRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NativeCode:
    """The C code, ready to run: `loading.cpu.CpuCode`."""

    level: CpuLevel
    arithmetic: Arithmetic
    """What 4-bit layers multiply with."""
    library: Library

    def obstacle(self, model: Any) -> str:  # noqa: ANN401 - transformers models share no useful static type
        """Returns why a model does not run in C as a whole; empty if it does."""
        return obstacles.obstacle(model)

    def obstacle_by_design(self, skeleton: nn.Module) -> str:
        """Returns the same for a model without weights, whatever they will be."""
        return obstacles.obstacle_by_design(skeleton)


def native_code(config: Config) -> NativeCode | None:
    """Returns the C code for the CPU's level, or the one that is asked for; None on GPUs, and if it cannot be compiled.

    Raises ValueError if activations are to be rounded, and it cannot be; or the level is not one that this CPU can run.
    """
    if not runs_on_cpu(config):
        if config.activations in {"int16", "int8"}:
            raise ValueError(f"--activations {config.activations} is for models on a CPU alone")
        return None
    level = cpu_level(config.cpu_level)
    arithmetic = level.arithmetic if config.activations == "auto" else config.activations
    if arithmetic not in level.arithmetics():
        raise ValueError(
            f"--activations {arithmetic} is for CPUs with AVX512-VNNI alone; this one runs as {level.name}"
        )
    try:
        library = load(torch.get_num_threads(), level)
    except NativeError as error:
        if config.activations in {"int16", "int8"}:
            raise ValueError(
                f"--activations {config.activations}: the CPU's kernels cannot be compiled: {error}"
            ) from error
        logger.warning("the CPU's kernels cannot be compiled, which makes the model slower: %s", error)
        return None
    logger.info("the CPU's level is %s; 4-bit layers multiply with %s activations", level.name, arithmetic)
    return NativeCode(level, arithmetic, library)


def native_runner(model: Any, code: NativeCode) -> NativeRunner | None:  # noqa: ANN401 - as above
    """Makes the C code compute what it can of a model.

    Returns what runs the whole model; None if transformers has to, with 4-bit products in C if there are any.
    Raises ValueError if activations are to be int8, and there is no layer for them.
    """
    if code.arithmetic == "int8":
        _announce_int8(model)
    layers = take_over_linear_layers(model, code.library, code.arithmetic)
    reason = code.obstacle(model)
    if reason:
        logger.info("4-bit products of %d layers run in C, the rest of the model in Python: %s", layers, reason)
        return None
    logger.info("the whole model runs in C: %s", code.library.path)
    return NativeRunner(model, code.library, code.arithmetic)


def _announce_int8(model: Any) -> None:  # noqa: ANN401 - as above
    layers = native_layers(model)
    rounding = sum(map(rounds_int8, layers))
    if not rounding:
        raise ValueError("--activations int8: the model has no layer of 4-bit weights in blocks of 64 or a multiple")
    logger.warning(
        "the activations of %d of %d 4-bit layers are rounded to int8: results are inexact", rounding, len(layers)
    )
