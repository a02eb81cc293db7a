"""Recognizes models that are built like Llama, and describes them to the C code."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...loading.cpu_level import Arithmetic
from .linear import PACKED_OUTPUTS, NativeLinear, takes_4bit, takes_dense
from .structures import GateKind, Layer, Linear, Model, NormKind


@dataclass(frozen=True)
class Parts:
    """What differs between classes of models in what their config does not tell; norms are names in a layer."""

    norm: NormKind = NormKind.ROUNDED_FIRST
    input_norm: str = "input_layernorm"
    network_norm: str = "post_attention_layernorm"
    attended_norm: str = ""
    fed_norm: str = ""
    norms_all_heads: bool = False
    """Whether the norms of queries and keys are over all heads together."""
    caps_scores: bool = False
    """Whether attention heeds `attn_logit_softcapping`."""


_LLAMA = Parts()
_FOUR_NORMS = Parts(
    norm=NormKind.PLUS_ONE,
    network_norm="pre_feedforward_layernorm",
    attended_norm="post_attention_layernorm",
    fed_norm="post_feedforward_layernorm",
)
_FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _LLAMA,
    "GemmaForCausalLM": Parts(norm=NormKind.PLUS_ONE),
    "Gemma2ForCausalLM": replace(_FOUR_NORMS, caps_scores=True),
    "Gemma3ForCausalLM": _FOUR_NORMS,
    "Olmo2ForCausalLM": Parts(
        norm=NormKind.ROUNDED_LAST,
        input_norm="",
        network_norm="",
        attended_norm="post_attention_layernorm",
        fed_norm="post_feedforward_layernorm",
        norms_all_heads=True,
    ),
}
"""RMSNorm before or behind attention and a gated network, rotary positions over whole heads, causal attention. Biases,
norms in the heads, sliding windows, a rotation for each kind of layer and packed projections are where a model has
them."""

_GATES = {"silu": GateKind.SILU, "gelu_pytorch_tanh": GateKind.GELU_TANH}
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
    return _obstacle_in_weights(model)


def obstacle_by_design(model: Any) -> str:  # noqa: ANN401 - as above
    """Returns why the C code cannot run a model, whatever its weights are, or would be; empty if it may."""
    family = type(model)
    if family.__name__ not in _FAMILIES or not family.__module__.startswith("transformers.models."):
        return "it is built otherwise"
    return _obstacle_in_shapes(model)


def _obstacle_in_shapes(model: Any) -> str:  # noqa: ANN401 - as above
    config, attention = model.config, model.model.layers[0].self_attn
    if _activation(config) not in _GATES:
        return f"its activation is {_activation(config)}"
    if getattr(config, "use_bidirectional_attention", False):
        return "its tokens see what follows them"
    if reason := _obstacle_in_ropes(model.model.rotary_emb, attention.head_dim):
        return reason
    if attention.head_dim % _PAIRED_LANES or attention.head_dim > _MAX_HEAD_DIM:
        return f"its heads have {attention.head_dim} dimensions"
    multiple = PACKED_OUTPUTS if hasattr(model.model.layers[0].mlp, "gate_up_proj") else _LANES
    if config.hidden_size % _LANES or config.intermediate_size % multiple:
        return f"its sizes {config.hidden_size} and {config.intermediate_size} are no multiples of {multiple}"
    return ""


def _obstacle_in_ropes(rotary: Any, head_dim: int) -> str:  # noqa: ANN401 - as above
    for rope_type, frequencies in _ropes(rotary):
        if rope_type in _MOVING_ROPES:
            return "its rotary frequencies depend on the longest row"
        if 2 * frequencies != head_dim:
            return f"it rotates {2 * frequencies} of {head_dim} dimensions"
    return ""


def _obstacle_in_weights(model: Any) -> str:  # noqa: ANN401 - as above
    for layer in model.model.layers:
        for name, projection, _ in _projections(layer, model.config):
            if not takes_4bit(projection) and not takes_dense(projection):
                return f"the weights of {name} are neither bfloat16 nor 4-bit blocks"
    if not takes_dense(model.lm_head) or model.lm_head.bias is not None:
        return "its head is no plain bfloat16 matrix"
    others = [*_norms(model), model.model.embed_tokens.weight]
    if any(weight.dtype != torch.bfloat16 for weight in others):
        return "it does not compute in bfloat16"
    return ""


def _activation(config: Any) -> str:  # noqa: ANN401 - as above
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def layer_types(rotary: Any) -> list[str | None]:  # noqa: ANN401 - as above
    """Returns the kinds of layers that have a rotation of their own, as a rotary embedding calls them; None: all."""
    return list(getattr(rotary, "layer_types", (None,)))


def _ropes(rotary: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - as above
    """Yields each rotation's type, and its number of frequencies."""
    for each in layer_types(rotary):
        if each is None:
            yield rotary.rope_type, rotary.inv_freq.numel()
        else:
            yield rotary.rope_type[each], getattr(rotary, f"{each}_inv_freq").numel()


def _projections(layer: Any, config: Any) -> Iterator[tuple[str, nn.Module, range | None]]:  # noqa: ANN401 - as above
    """Yields a layer's projections in the order of `Layer`, each with its name and, where it is a part, its outputs."""
    attention, mlp = layer.self_attn, layer.mlp
    keys, inner = config.num_key_value_heads * attention.head_dim, config.intermediate_size
    yield from _parts(
        attention, "qkv_proj", q_proj=config.num_attention_heads * attention.head_dim, k_proj=keys, v_proj=keys
    )
    yield "o_proj", attention.o_proj, None
    yield from _parts(mlp, "gate_up_proj", gate_proj=inner, up_proj=inner)
    yield "down_proj", mlp.down_proj, None


def _parts(module: Any, packed: str, **sizes: int) -> Iterator[tuple[str, nn.Module, range | None]]:  # noqa: ANN401 - as above
    """Yields projections by name: each by itself, or, as in Phi-3, one behind the other in a packed one."""
    begin = 0
    for name, size in sizes.items():
        if hasattr(module, packed):
            yield packed, getattr(module, packed), range(begin, begin + size)
        else:
            yield name, getattr(module, name), None
        begin += size


def _norms(model: Any) -> list[Tensor]:  # noqa: ANN401 - as above
    return [module.weight for name, module in model.named_modules() if name.endswith("norm")]


class LlamaDescription:
    """A model's addresses and sizes. What they point to is kept as long as this is."""

    def __init__(self, model: Any, arithmetic: Arithmetic = "exact") -> None:  # noqa: ANN401 - as above
        """Takes a model without obstacles, its 4-bit layers packed, and what those multiply with."""
        self._arithmetic: Arithmetic = arithmetic
        self._parts = parts = _FAMILIES[type(model).__name__]
        self._layer_types = layer_types(model.model.rotary_emb)
        # Kept here: the structures hold addresses alone.
        self._norms = _norms(model)
        self._linears: list[NativeLinear] = []
        decoder, config = model.model, model.config
        attention = decoder.layers[0].self_attn
        self._layers = (Layer * len(decoder.layers))(*(self._layer(layer) for layer in decoder.layers))
        self.layer_count = len(decoder.layers)
        self.vocab_size = model.lm_head.out_features
        self.structure = Model(
            layers=self._layers,
            final_norm=decoder.norm.weight.data_ptr(),
            head=self._linear(model.lm_head),
            layer_count=self.layer_count,
            width=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            norm_kind=parts.norm,
            norms_all_heads=parts.norms_all_heads,
            gate_kind=_GATES[_activation(config)],
            epsilon=config.rms_norm_eps,
            scaling=attention.scaling,
            score_cap=(config.attn_logit_softcapping or 0) if parts.caps_scores else 0,
            logit_cap=getattr(config, "final_logit_softcapping", None) or 0,
        )

    def _layer(self, layer: Any) -> Layer:  # noqa: ANN401 - as above
        attention = layer.self_attn
        parts = self._parts
        norms = (parts.input_norm, parts.network_norm, parts.attended_norm, parts.fed_norm)
        projections = _projections(layer, attention.config)
        linears = (self._linear(projection, outputs) for _, projection, outputs in projections)
        kind = getattr(attention, "layer_type", None)
        return Layer(
            *(_address(getattr(layer, name, None)) for name in norms),
            _address(getattr(attention, "q_norm", None)),
            _address(getattr(attention, "k_norm", None)),
            *linears,
            _window(attention),
            self._layer_types.index(kind) if kind in self._layer_types else 0,
        )

    def _linear(self, layer: Any, outputs: range | None = None) -> Linear:  # noqa: ANN401 - as above
        self._linears.append(NativeLinear(layer, self._arithmetic, outputs))
        return self._linears[-1].structure


def _address(norm: Any) -> int | None:  # noqa: ANN401 - as above
    if norm is None:
        return None
    weight: Tensor = norm.weight
    return weight.data_ptr()


def _window(attention: Any) -> int:  # noqa: ANN401 - as above
    """Returns how many columns a token of this layer sees; 0: all."""
    window = getattr(attention, "sliding_window", None)
    if window is None and type(attention).__name__ in {"MistralAttention", "Phi3Attention"}:
        window = attention.config.sliding_window
    return int(window or 0)
