"""Puts an engine together from a loaded model and a memory budget."""

import logging

from .config import Config
from .engine import Engine, Memory
from .loading import LoadedModel
from .memory import divide, free_bytes, probe_shapes
from .model_runner import ModelRunner
from .scheduler import Limits, Scheduler

logger = logging.getLogger(__name__)


def assemble(loaded: LoadedModel, config: Config) -> Engine:
    """Returns an engine over the model, with all its memory allocated.

    Raises UnsupportedModelError if the model's layers, or the budget, do not allow it.
    """
    shapes = probe_shapes(loaded.model)
    budget = int(config.memory_gib * 2**30) or free_bytes(loaded.devices)
    room = divide(shapes, budget=budget, max_rows=config.max_rows, model_context=loaded.facts.context_length)
    logger.info(
        "keys and values: %.1f MiB, %d rows of %d columns, at most %d tokens in a sequence",
        room.bytes_total / 2**20,
        room.rows,
        room.columns,
        room.context_length,
    )
    limits = Limits(
        max_rows=room.rows,
        context_length=room.context_length,
        group_tokens=room.context_length,
        chunk_tokens=config.chunk_tokens,
        idle_chunk_tokens=4 * config.chunk_tokens,
    )
    runner = ModelRunner(loaded.model, takes_position_ids=loaded.takes_position_ids, device=loaded.input_device)
    memory = Memory(shapes, room.rows, room.columns, loaded.input_device, loaded.pad_token_id)
    return Engine(runner, Scheduler(limits, loaded.facts.eos_token_ids), memory)
