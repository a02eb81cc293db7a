"""Imports bitsandbytes without its side effects.

Where the package `kernels` is installed, the import asks a hub for another build of the CPU kernel; where it is not,
it logs that as a failure. Neither belongs into the start of a server: the kernel that bitsandbytes ships is good. The
import also loads torch's compiler, which takes over a second, for functions that stand in where that kernel is missing.
LLM.int8 besides logs a line for each layer and forward pass, to say that it computes in float16, and takes inputs of
two and three dimensions only, where linear layers take any: attention to latents (MiniCPM3, DeepSeek) has four.
"""

import logging
import sys
from types import ModuleType
from typing import Any

import torch

_KERNELS = "kernels"
_MOST_DIMENSIONS = 3


def _import() -> ModuleType:
    hidden, compiler = sys.modules.get(_KERNELS), torch.compile
    # None makes `import kernels` fail, as Python documents.
    sys.modules[_KERNELS] = None  # type: ignore[assignment]
    torch.compile = _uncompiled  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        import bitsandbytes as module  # noqa: PLC0415 - that it happens here is the point
    finally:
        log.setLevel(level)
        torch.compile = compiler
        del sys.modules[_KERNELS]
        if hidden is not None:
            sys.modules[_KERNELS] = hidden
    return module


def _uncompiled(function: Any = None, **_: object) -> Any:  # noqa: ANN401 - as torch.compile
    return function if function is not None else _uncompiled


def _take_any_rank(layers: Any) -> None:  # noqa: ANN401 - bitsandbytes ships no types
    forward = layers.forward

    def flattened(layer: Any, inputs: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        outputs: torch.Tensor = forward(layer, inputs.flatten(0, -2) if inputs.dim() > _MOST_DIMENSIONS else inputs)
        return outputs.unflatten(0, inputs.shape[:-1]) if inputs.dim() > _MOST_DIMENSIONS else outputs

    layers.forward = flattened


bnb = _import()
_take_any_rank(bnb.nn.Linear8bitLt)
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
