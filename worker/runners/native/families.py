"""The families of models that the C code runs: what differs between their classes, one line for each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .structures import HeadNorms, NormKind


@dataclass(frozen=True)
class Parts:
    """What differs between classes of models in what their config does not tell, and under which names they keep it.

    What a model may lack, as biases, norms in the heads or a packed projection, is there if it has something by that
    name.
    """

    norm: NormKind = NormKind.ROUNDED_FIRST
    head_norms: HeadNorms = HeadNorms.ALIKE
    caps_scores: bool = False
    """Whether attention heeds `attn_logit_softcapping`."""
    slides: bool = False
    """Whether the config's window is that of every layer; else a layer's own is."""
    is_parallel: Callable[[Any], bool] = lambda _: False
    """Of a config: whether the network reads what the layer does, not what attention has added to it."""
    is_interleaved: bool = False
    """Whether the packed projection has, for each head of keys, its queries, itself and its values."""

    decoder: str = "model"
    layers: str = "layers"
    final_norm: str = "norm"
    positions: str = ""
    """The embedding of positions that are learned; none: heads rotate."""
    input_norm: tuple[str, ...] = ("input_layernorm",)
    """The first that a layer has, or none."""
    network_norm: tuple[str, ...] = ("post_attention_layernorm",)
    attended_norm: str = ""
    fed_norm: str = ""
    attention: str = "self_attn"
    packed: str = ""
    """Queries, keys and values in one projection; none: `q_proj`, `k_proj` and `v_proj`."""
    query_norm: str = "q_norm"
    key_norm: str = "k_norm"
    output: str = "o_proj"
    network: str = "mlp"
    packed_gate: str = ""
    """Gate and what it is multiplied with in one projection."""
    gate: str = "gate_proj"
    up: str = "up_proj"
    """None, if activations are not multiplied."""
    down: str = "down_proj"


_LLAMA = Parts()
_SLIDING = Parts(slides=True)
_FOUR_NORMS = Parts(
    norm=NormKind.PLUS_ONE,
    network_norm=("pre_feedforward_layernorm",),
    attended_norm="post_attention_layernorm",
    fed_norm="post_feedforward_layernorm",
)
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _SLIDING,
    "MixtralForCausalLM": _SLIDING,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen2MoeForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "Qwen3MoeForCausalLM": _LLAMA,
    "Phi3ForCausalLM": replace(_SLIDING, packed="qkv_proj", packed_gate="gate_up_proj"),
    "GemmaForCausalLM": Parts(norm=NormKind.PLUS_ONE),
    "Gemma2ForCausalLM": replace(_FOUR_NORMS, caps_scores=True),
    "Gemma3ForCausalLM": _FOUR_NORMS,
    "Olmo2ForCausalLM": Parts(
        norm=NormKind.ROUNDED_LAST,
        head_norms=HeadNorms.TOGETHER,
        input_norm=(),
        network_norm=(),
        attended_norm="post_attention_layernorm",
        fed_norm="post_feedforward_layernorm",
    ),
    "OlmoeForCausalLM": Parts(head_norms=HeadNorms.TOGETHER),
    "Starcoder2ForCausalLM": Parts(norm=NormKind.CENTERED, slides=True, gate="c_fc", up="", down="c_proj"),
    "StableLmForCausalLM": Parts(
        norm=NormKind.CENTERED,
        head_norms=HeadNorms.OWN,
        is_parallel=lambda config: config.use_parallel_residual,
        query_norm="q_layernorm",
        key_norm="k_layernorm",
    ),
    "GPTNeoXForCausalLM": Parts(
        norm=NormKind.CENTERED,
        is_parallel=lambda config: config.use_parallel_residual,
        is_interleaved=True,
        decoder="gpt_neox",
        final_norm="final_layer_norm",
        attention="attention",
        packed="query_key_value",
        output="dense",
        gate="dense_h_to_4h",
        up="",
        down="dense_4h_to_h",
    ),
    "PhiForCausalLM": Parts(
        norm=NormKind.CENTERED,
        is_parallel=lambda _: True,
        final_norm="final_layernorm",
        network_norm=(),
        query_norm="q_layernorm",
        key_norm="k_layernorm",
        output="dense",
        gate="fc1",
        up="",
        down="fc2",
    ),
    "GPT2LMHeadModel": Parts(
        norm=NormKind.CENTERED,
        decoder="transformer",
        layers="h",
        final_norm="ln_f",
        positions="wpe",
        input_norm=("ln_1",),
        network_norm=("ln_2",),
        attention="attn",
        packed="c_attn",
        output="c_proj",
        gate="c_fc",
        up="",
        down="c_proj",
    ),
    "FalconForCausalLM": Parts(
        norm=NormKind.CENTERED,
        is_parallel=lambda config: config.parallel_attn or config.new_decoder_architecture,
        is_interleaved=True,
        decoder="transformer",
        layers="h",
        final_norm="ln_f",
        input_norm=("ln_attn", "input_layernorm"),
        network_norm=("ln_mlp", "post_attention_layernorm"),
        attention="self_attention",
        packed="query_key_value",
        output="dense",
        gate="dense_h_to_4h",
        up="",
        down="dense_4h_to_h",
    ),
}
"""Norms before or behind attention and a network, rotary or learned positions, causal attention. Biases, norms in the
heads, sliding windows, a rotation for each kind of layer, how much of a head rotates and experts are where a model has
them."""
