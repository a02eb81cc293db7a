"""The command `plan`: what a model will take of a GPU, from its config.json alone."""

from types import SimpleNamespace

import torch

from .assembly import demand
from .domain.config import Config
from .domain.refusal import doing
from .loading.checkpoint.hub import Files
from .loading.checkpoint.preflight import CONFIG, in_plain_words
from .loading.facts import context_length
from .loading.placement import parse_size
from .loading.probe import expected_layouts
from .loading.quantization import skeleton
from .loading.sizes import expected_size
from .loading.weights import read_config
from .memory.plan import GIB, Card, MemoryPlan, plan

_UNKNOWN = SimpleNamespace(model_max_length=10**30)
"""A tokenizer that names no limit."""


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
