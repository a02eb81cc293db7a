"""Says what of a model the C code cannot run."""

from typing import Any

import torch

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
    if model.gate_kind is None:
        return f"its activation is {model.activation}"
    if getattr(model.config, "use_bidirectional_attention", False):
        return "its tokens see what follows them"
    if reason := _obstacle_in_ropes(model):
        return reason
    if model.head_dim % _PAIRED_LANES or model.head_dim > _MAX_HEAD_DIM:
        return f"its heads have {model.head_dim} dimensions"
    multiple = PACKED_OUTPUTS if model.parts.packed_gate else _LANES
    width = model.config.hidden_size
    for inner in sorted({model.inner(layer) for layer in model.layers}):
        if width % _LANES or inner % multiple:
            return f"its sizes {width} and {inner} are no multiples of {multiple}"
    return ""


def _obstacle_in_ropes(model: Anatomy) -> str:
    for rope_type, frequencies in model.ropes():
        if rope_type in _MOVING_ROPES:
            return "its rotary frequencies depend on the longest row"
        if 2 * frequencies != model.rotary_dim:
            return f"some of its layers rotate {model.rotary_dim} dimensions of a head, some {2 * frequencies}"
    return ""


def _obstacle_in_weights(model: Anatomy) -> str:
    for layer in model.layers:
        for each in model.projections(layer):
            if not takes_4bit(each.module) and not takes_dense(each.module):
                return f"the weights of {each.name} are neither bfloat16 nor 4-bit blocks"
    if not takes_dense(model.head):
        return "its head is no plain bfloat16 matrix"
    norms = [norm for layer in model.layers for norms in model.norms(layer).values() for norm in norms]
    others = [parameter for module in (*norms, model.final_norm, model.embedding) for parameter in module.parameters()]
    if any(parameter.dtype != torch.bfloat16 for parameter in others):
        return "it does not compute in bfloat16"
    return ""
