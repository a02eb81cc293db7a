"""Puts the runner of a model on a GPU together, if its decode steps can be captured."""

import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ...loading.dispatch import execution_devices, offloaded_bytes
from ...loading.quantization.bitsandbytes_offline import bnb
from ...memory.buckets import row_buckets
from ...memory.copies import Moves
from ...memory.device_errors import is_lost_device, is_out_of_memory
from ...memory.storage import Storage
from ..model_runner import ModelRunner
from . import lives
from .capture.capture import CudaCapture, device_seconds
from .capture.graph_step import GraphStep
from .kernels.checked_moves import CheckedMoves
from .kernels.ops import Pool
from .kernels.variants import Variants, compiling
from .llama.forward import Forward, StaticInput, TransformersForward, pools
from .llama.llama import LlamaForward, is_llama_like
from .llama.matrix import FourBitMatrix
from .llama.projection import FourBitProjection, MoreWays, Product, choose
from .runner import CudaRunner

logger = logging.getLogger(__name__)

_LEAST_CAPABILITY = 8, 0
_COMPILERS = "cc", "gcc", "clang"
_BLOCKS_OF_OUTPUTS = (32, 64)
_MOVING_ROPES = {"dynamic", "longrope"}


def cuda_runner(model: Any, device: torch.device, *, copy_bytes: int = 0) -> CudaRunner | None:  # noqa: ANN401 - no useful static type
    """Returns a runner that replays CUDA graphs; None on a CPU, without Triton, and where `obstacle` finds a reason.

    Copies of matrices in 16 bit may take `copy_bytes` in all.
    Nothing is captured yet: each number of rows is at its first step, so a warm-up should come by all of them.
    """
    if device.type != "cuda":
        return None
    if reason := obstacle(model):
        logger.warning("decode steps are not captured: %s", reason)
        return None
    if reason := lack(torch.cuda.get_device_capability(device)):
        logger.warning("decode steps are not captured: %s", reason)
        return None
    key = lives.key_of(torch.cuda.get_device_name(device))
    if len(ended := lives.deaths(lives.folder(), key)) >= lives.MOST_DEATHS:
        logger.warning(
            "decode steps are not captured: %d workers have ended while theirs were tried on this kind of GPU; delete "
            "%s to have it tried again",
            len(ended),
            ended[0],
        )
        return None
    step = GraphStep(model, lambda storage: make_forward(model, storage, device, copy_bytes), CudaCapture(device))
    eager = ModelRunner.for_model(model, device)
    return CudaRunner(eager, step, trial=partial(lives.marked, lives.folder(), key), moves=_moves())


def _moves() -> Moves:
    from .kernels.triton_moves import TritonMoves  # noqa: PLC0415 - Triton is loaded only where a GPU runs it

    return CheckedMoves(TritonMoves())


def lack(capability: tuple[int, int]) -> str:
    """Returns what Triton's kernels lack here, on a GPU of this compute capability; empty if nothing."""
    if capability < _LEAST_CAPABILITY:
        return (
            f"Triton's kernels spill on GPUs of compute capability {'.'.join(map(str, capability))}; they are for "
            f"{'.'.join(map(str, _LEAST_CAPABILITY))} (Ampere) and later"
        )
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not os.environ.get("CC") and not any(map(shutil.which, _COMPILERS)):
        return f"Triton needs a C compiler, and there is none of {', '.join(_COMPILERS)}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Triton needs Python's headers, and there is no Python.h (the package python3-dev of most systems)"
    return ""


def make_forward(model: Any, storage: Storage, device: torch.device, copy_bytes: int) -> Forward:  # noqa: ANN401 - as above
    """Returns the forward pass of a model over a storage, its kernels checked and its products chosen by measurement.

    Raises UncapturableError if the model cannot be captured, WrongKernelError if a kernel computes something else than
    plain torch on this device.
    """
    from .kernels.kernel_check import check_ops  # noqa: PLC0415 - Triton is loaded only where a GPU runs it
    from .kernels.triton_ops import TritonOps  # noqa: PLC0415 - the same

    layers = pools(storage)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    ops = TritonOps(processors)
    with torch.cuda.device(device):
        for pool in {(pool.keys.shape, pool.values.shape): pool for pool in layers}.values():
            # As many parts as this device has use for, and so few that each is several tiles long.
            for each in (ops, TritonOps(processors=1)):
                check_ops(each, pool, group=_queries_per_key(model, pool))
        if not is_llama_like(model):
            return TransformersForward(model, layers, ops)
        forward = LlamaForward(model, layers, ops)
        torch.cuda.empty_cache()  # what fusing has freed is there for others, too
        _compile_ahead(forward, row_buckets(storage.rows), _triton_ways(processors), device, model.dtype)
        choose(
            forward.projections(),
            row_buckets(storage.rows),
            dtype=model.dtype,
            timer=device_seconds,
            more_ways=_triton_ways(processors),
            copy_bytes=copy_bytes,
        )
    return forward


def _compile_ahead(*given: Any) -> None:  # noqa: ANN401 - as compile_ahead
    try:
        compile_ahead(*given)
    except Exception as error:
        if is_out_of_memory(error) or is_lost_device(error):
            raise
        # It saves time alone: whatever Triton's compiler does not do ahead, it does at the first launch.
        logger.warning("kernels are compiled one after the other: %s", error)


def compile_ahead(
    forward: LlamaForward, row_counts: Sequence[int], more_ways: MoreWays, device: torch.device, dtype: torch.dtype
) -> Variants:
    """Compiles the kernels of all numbers of rows, several at a time, and returns which; none of them is launched."""
    matrices = {each.shape: each.matrix for each in forward.projections() if isinstance(each, FourBitProjection)}
    with compiling(torch.get_num_threads()) as variants:
        for rows in row_counts:
            forward(StaticInput(rows, device))
            for matrix in matrices.values():
                given = torch.zeros(rows, matrix.inputs, dtype=dtype, device=device)
                for way in more_ways(matrix, rows).values():
                    way(given)
    return variants


def _queries_per_key(model: Any, pool: Pool) -> int:  # noqa: ANN401 - as above
    heads: int = model.config.get_text_config().num_attention_heads
    return max(1, heads // pool.heads)


def _triton_ways(processors: int) -> MoreWays:
    from .llama.four_bit_product import MOST_ROWS, FourBitProduct  # noqa: PLC0415 - as above

    def ways(matrix: FourBitMatrix, rows: int) -> dict[str, Product]:
        return dict(_products(matrix)) if rows <= MOST_ROWS else {}

    def _products(matrix: FourBitMatrix) -> Iterator[tuple[str, Product]]:
        for outputs in _BLOCKS_OF_OUTPUTS:
            yield f"Triton kernel, {outputs} outputs", FourBitProduct(matrix, outputs, processors)

    return ways


def obstacle(model: Any) -> str:  # noqa: ANN401 - transformers models share no useful static type
    """Returns why no step of a model on a GPU can be captured; empty if nothing is known to be in the way."""
    if len(execution_devices(model)) != 1 or offloaded_bytes(model):
        return "the model is not on one GPU alone"
    return next(filter(None, map(_obstacle_in, model.modules())), "")


def _obstacle_in(module: Any) -> str:  # noqa: ANN401 - bitsandbytes ships no types
    """Returns why a module waits for the device in each step, which no captured one may."""
    if isinstance(module, bnb.nn.Linear8bitLt) and module.state.threshold > 0:
        return "LLM.int8 looks for outliers in what each layer is given; --int8-threshold 0 spares that"
    if _MOVING_ROPES & _rotary_kinds(module):
        return "its rotary frequencies depend on the longest row"
    return ""


def _rotary_kinds(module: Any) -> set[object]:  # noqa: ANN401 - each family has its own rotary embedding
    kinds = getattr(module, "rope_type", None)
    return set(kinds.values()) if isinstance(kinds, dict) else {kinds}
