"""Says what of a model the C code cannot run."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .anatomy import Anatomy
from .families import FAMILIES
from .linear import PACKED_OUTPUTS, takes_4bit, takes_dense

_MOVING_ROPES = {"dynamic", "longrope"}
_LANES = 16
_PAIRED_LANES = 32
_MAX_HEAD_DIM = 256
"""MAX_HEAD_DIM in attention.h."""


def obstacle(model: Any) -> str:  # noqa: ANN401 - transformers models share no useful static type
    """Returns why the C code cannot run a model; empty if it can."""
    if reason := obstacle_by_design(model):
        return reason
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return "it is spread over devices"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):  # noqa: SLF001 - torch has no public way to ask
        return "it has hooks, which C cannot call"
    return _obstacle_in_weights(Anatomy(model))


def obstacle_by_design(model: Any) -> str:  # noqa: ANN401 - as above
    """Returns why the C code cannot run a model, whatever its weights are, or would be; empty if it may."""
    family = type(model)
    if family.__name__ not in FAMILIES or not family.__module__.startswith("transformers.models."):
        return "it is built otherwise"
    return _obstacle_in_shapes(Anatomy(model))


def _obstacle_in_shapes(model: Anatomy) -> str:
    """Returns the first of all that stand in the way."""
    return next(chain(_other_parts(model), _other_ropes(model), _other_sizes(model)), "")


def _other_parts(model: Anatomy) -> Iterator[str]:
    config = model.config
    if model.gate_kind is None:
        yield f"its activation is {model.activation}"
    if getattr(config, "use_bidirectional_attention", False):
        yield "its tokens see what follows them"
    if getattr(config, "clip_qkv", None) is not None:
        yield "it clips queries, keys and values"
    if getattr(config, "alibi", False):
        yield "its positions are biases of scores (ALiBi)"
    if len({model.scaling(layer) for layer in model.layers}) > 1:
        yield "its layers scale scores differently"


def _other_ropes(model: Anatomy) -> Iterator[str]:
    for rope_type, frequencies in model.ropes():
        if rope_type in _MOVING_ROPES:
            yield "its rotary frequencies depend on the longest row"
        if 2 * frequencies != model.rotary_dim:
            yield f"some of its layers rotate {model.rotary_dim} dimensions of a head, some {2 * frequencies}"


def _other_sizes(model: Anatomy) -> Iterator[str]:
    if model.head_dim % _PAIRED_LANES or model.head_dim > _MAX_HEAD_DIM:
        yield f"its heads have {model.head_dim} dimensions"
    multiple = PACKED_OUTPUTS if model.parts.packed_gate else _LANES
    width = model.config.hidden_size
    inners = {size(layer) for layer in model.layers for size in (model.inner, model.inner_of_experts)}
    for inner in sorted(inners - {0}):
        if width % _LANES or inner % multiple:
            yield f"its sizes {width} and {inner} are no multiples of {multiple}"


def _obstacle_in_weights(model: Anatomy) -> str:
    for layer in model.layers:
        for each in model.projections(layer):
            if not takes_4bit(each.module) and not takes_dense(each.module):
                return f"the weights of {each.name} are neither bfloat16 nor 4-bit blocks"
        if (routed := model.routed(layer)) and not all(map(_is_plain, _weights(routed))):
            return "its experts are no plain bfloat16 matrices"
    if not takes_dense(model.head):
        return "its head is no plain bfloat16 matrix"
    norms = [norm for layer in model.layers for norms in model.norms(layer).values() for norm in norms]
    embeddings = [each for each in (model.embedding, model.positions) if each is not None]
    others = [parameter for module in (*norms, model.final_norm, *embeddings) for parameter in module.parameters()]
    if any(parameter.dtype != torch.bfloat16 for parameter in others):
        return "it does not compute in bfloat16"
    return ""


def _weights(routed: Any) -> Iterator[Any]:  # noqa: ANN401 - as above
    """Yields what experts and what leads to them are multiplied with."""
    yield from (routed.gate.weight, routed.experts.gate_up_proj, routed.experts.down_proj)
    if hasattr(routed, "shared_expert_gate"):
        yield routed.shared_expert_gate.weight


def _is_plain(weight: Tensor) -> bool:
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.is_contiguous()
