"""Plans a GPU's memory: for a model that is loaded, and for the command `plan`, which reads a config.json alone."""

import logging
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from .domain.config import Config
from .domain.refusal import doing
from .loading.checkpoint.hub import Files
from .loading.checkpoint.preflight import CONFIG, in_plain_words
from .loading.dispatch import offloaded_bytes
from .loading.facts import context_length
from .loading.loading import LoadedModel
from .loading.one_gpu import demand
from .loading.placement import parse_size
from .loading.probe import expected_layouts
from .loading.quantization.quantization import expected_size, loaded_size, skeleton
from .loading.weights import read_config
from .memory.budget import free_bytes
from .memory.layout import Layout, devices
from .memory.plan import GIB, MIB, Card, MemoryPlan, plan

logger = logging.getLogger(__name__)

_UNKNOWN = SimpleNamespace(model_max_length=10**30)
"""A tokenizer that names no limit."""


def memory_plan(loaded: LoadedModel, layouts: Sequence[Layout], config: Config) -> MemoryPlan | None:
    """Returns how the memory of the GPU is divided that the whole model is on; None elsewhere. Raises as `plan`."""
    device = loaded.input_device
    if device.type != "cuda" or devices(layouts) != {device} or offloaded_bytes(loaded.model):
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    planned = plan(
        Card(total, free_bytes(device), config.workers_on_gpu),
        loaded_size(loaded.model, layouts, loaded.facts.context_length),
        demand(config, is_loaded=True),
    )
    logger.info(
        "plan of the GPU's memory in MiB: %s",
        ", ".join(f"{kind} {size // MIB}" for kind, size in planned.kinds.items()),
    )
    return planned


def planned(config: Config, memory: str) -> MemoryPlan:
    """Returns how a GPU with so much memory, such as "24GiB", would be divided. No weight is read, no GPU needed.

    Raises as `load`, and ValueError if the memory is no size.
    """
    total = parse_size(memory)
    settings = Files(config).read_object(CONFIG) or {}
    with doing("reading config.json"), in_plain_words(settings):
        model_config = read_config(config)
        context = context_length(model_config, _UNKNOWN, asked=config.context_length)
        dtype = torch.bfloat16 if config.compute_dtype == "auto" else getattr(torch, config.compute_dtype)
        model = skeleton(model_config).to(dtype).eval()
    with doing("working out what its layers keep"):
        layouts = expected_layouts(model)
    size = expected_size(config, model, layouts, context)
    return plan(Card(total, total, config.workers_on_gpu), size, demand(config, is_loaded=False))


def report(found: MemoryPlan) -> str:
    """Returns a plan as lines of text."""
    room = found.room
    lines = [f"{kind:16} {size / GIB:8.2f} GiB" for kind, size in found.kinds.items()]
    lines += [
        f"{'rows':16} {room.max_rows:8,}",
        f"{'context':16} {room.context_length:8,} tokens",
        f"{'pool':16} {room.tokens:8,} tokens, of all running rows",
    ]
    return "\n".join(lines)
