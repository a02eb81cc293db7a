"""Puts an engine together from a loaded model and a memory budget."""

import logging
from collections.abc import Sequence

import torch

from .domain.config import Config
from .engine.engine import Engine, Memory, Sampler
from .loading.cpu_level import CpuLevel, cpu_level
from .loading.loading import LoadedModel
from .loading.probe import layer_layouts
from .memory.budget import budget, divide
from .memory.layout import Layout, prefills_whole
from .memory.plan import Room
from .plan import memory_plan
from .runners.cuda.assembly import cuda_runner
from .runners.model_runner import ModelRunner
from .runners.native.assembly import NativeCode, native_runner
from .runners.native.library import NativeError, compiled
from .runners.runner import Runner
from .sampling.native.native_sampler import FLAGS, SOURCE, NativeSampler
from .sampling.sampler import sample
from .scheduling.scheduler import Limits, Scheduler

logger = logging.getLogger(__name__)

_LOGPROB_BYTES = 64 * 2**20
"""What the float32 logits of a chunk may take whose log-probabilities are reported; the softmax takes as much again."""


def assemble(loaded: LoadedModel, config: Config, *, share: float = 1.0) -> Engine:
    """Returns an engine over the model, with all its memory allocated: so much of what is planned for keys and values.

    Raises UnsupportedModelError if the model's layers, or the budget, do not allow it; ValueError as `native_runner`.
    """
    layouts = layer_layouts(loaded.model)
    planned = memory_plan(loaded, layouts, config)
    room = planned.room if planned else _share(loaded, layouts, config)
    if share < 1:
        budget_bytes, context = int(share * room.bytes_total), loaded.facts.context_length
        room = divide(layouts, budget=budget_bytes, max_rows=config.max_rows, model_context=context)
    _log(room, max_rows=config.max_rows, model_context=loaded.facts.context_length)
    limits = Limits(
        max_rows=room.max_rows,
        context_length=room.context_length,
        pool_tokens=room.tokens,
        group_tokens=room.group_tokens,
        chunk_tokens=config.chunk_tokens,
        idle_chunk_tokens=4 * config.chunk_tokens,
        logprob_chunk_tokens=max(1, min(config.chunk_tokens, _LOGPROB_BYTES // (4 * loaded.facts.vocab_size))),
        prefills_whole=prefills_whole(layouts),
    )
    runner = _runner(loaded, config, copy_bytes=planned.copies if planned and share == 1 else 0)
    memory = Memory(layouts, loaded.input_device, loaded.pad_token_id)
    return Engine(runner, Scheduler(limits), memory, _sampler(loaded.input_device, cpu_level(config.cpu_level)))


def _share(loaded: LoadedModel, layouts: Sequence[Layout], config: Config) -> Room:
    return divide(
        layouts,
        budget=budget(layouts, gib=config.memory_gib, share=config.memory_share),
        max_rows=config.max_rows,
        model_context=loaded.facts.context_length,
    )


def _runner(loaded: LoadedModel, config: Config, *, copy_bytes: int = 0) -> Runner:
    """Returns the fastest way to run the model on this machine."""
    if config.cuda_graphs and (captured := cuda_runner(loaded.model, loaded.input_device, copy_bytes=copy_bytes)):
        return captured
    if isinstance(loaded.code, NativeCode) and (runner := native_runner(loaded.model, loaded.code)):
        return runner
    return ModelRunner.for_model(loaded.model, loaded.input_device)


def _sampler(device: torch.device, level: CpuLevel) -> Sampler:
    """Returns the fastest way to choose tokens from logits on a device."""
    if device.type != "cpu":
        return sample
    try:
        return NativeSampler(compiled(SOURCE, level, flags=FLAGS), torch.get_num_threads())
    except (NativeError, OSError) as error:
        logger.warning("the sampler for CPUs cannot be compiled, which makes sampling slower: %s", error)
        return sample


def _log(room: Room, *, max_rows: int, model_context: int) -> None:
    logger.info(
        "memory for keys, values and states: %.1f MiB, one pool of %s tokens for at most %d rows; "
        "a prompt group of %s; at most %s tokens in a sequence",
        room.bytes_total / 2**20,
        f"{room.tokens:,}",
        room.max_rows,
        f"{room.group_tokens:,}",
        f"{room.context_length:,}",
    )
    if room.context_length < model_context:
        logger.warning(
            "the context is cut to %s of the model's %s tokens, as the memory for keys and values holds no more; "
            "give more with --memory-gib or --memory-share",
            f"{room.context_length:,}",
            f"{model_context:,}",
        )
    if room.max_rows < max_rows:
        logger.warning(
            "at most %d of the %d rows asked for run at once, as the memory holds the states of no more; "
            "give more with --memory-gib or --memory-share",
            room.max_rows,
            max_rows,
        )
