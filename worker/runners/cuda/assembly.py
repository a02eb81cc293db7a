"""Puts the runner of a model on a GPU together, if its decode steps can be captured."""

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from ...memory.budget import free_bytes
from ...memory.storage import Storage
from ..model_runner import ModelRunner
from .capture.buckets import row_buckets
from .capture.capture import CudaCapture, device_seconds
from .capture.graph_step import GraphStep
from .kernels.ops import Pool
from .llama.forward import Forward, TransformersForward, pools
from .llama.llama import LlamaForward, is_llama_like
from .llama.matrix import FourBitMatrix
from .llama.projection import MoreWays, Product, choose
from .obstacle import obstacle
from .runner import CudaRunner

logger = logging.getLogger(__name__)

_COPY_SHARE = 0.5
"""What dequantized copies of matrices may take of the memory that is free once the batch has its own."""
_BLOCKS_OF_OUTPUTS = (32, 64)


def cuda_runner(model: Any, device: torch.device) -> CudaRunner | None:  # noqa: ANN401 - no useful static type
    """Returns a runner that replays CUDA graphs; None on a CPU, without Triton, and where `obstacle` finds a reason.

    Nothing is captured yet: each number of rows is at its first step, so a warm-up should come by all of them.
    """
    if device.type != "cuda":
        return None
    if reason := obstacle(model):
        logger.warning("decode steps are not captured: %s", reason)
        return None
    if find_spec("triton") is None:
        logger.warning("Triton is not installed: decode steps are not captured")
        return None
    step = GraphStep(model, lambda storage: make_forward(model, storage, device), CudaCapture(device))
    return CudaRunner(ModelRunner.for_model(model, device), step)


def make_forward(model: Any, storage: Storage, device: torch.device) -> Forward:  # noqa: ANN401 - as above
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
        torch.cuda.empty_cache()  # what fusing has freed counts as free
        choose(
            forward.projections(),
            row_buckets(storage.rows),
            dtype=model.dtype,
            timer=device_seconds,
            more_ways=_triton_ways(processors),
            copy_bytes=int(_COPY_SHARE * free_bytes(device)),
        )
    return forward


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
