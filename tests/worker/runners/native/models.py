"""Tiny models that run in C, each once as the worker runs it and once in float32 with exactly the same weights."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.worker.families import WINDOW
from tests.worker.runners.native.matrices import quantized
from tests.worker.tiny_models import BOS, EOS, VOCAB_SIZE
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.loading.quantization.quantization import fits_cpu_kernel
from worker.runners.native.linear import shape

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Case:
    """A model that the C code can run."""

    name: str
    config_class: str = "LlamaConfig"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def has_choices(self) -> bool:
        """Whether tokens go through some of the experts, not all."""
        chosen = self.settings.get("num_experts_per_tok")
        return chosen is not None and chosen < self.settings["num_experts"]

    def __str__(self) -> str:
        return self.name


def _scaled(rope_type: str, **parameters: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 4.0, **parameters}}


ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
LLAMA3 = _scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
PHI_3: dict[str, Any] = {"head_dim": None, "hidden_size": 128, "num_key_value_heads": 2, "pad_token_id": 0}
GEMMA_3: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": ALTERNATING}
GEMMA_2 = GEMMA_3 | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}
OLMO_2: dict[str, Any] = {"head_dim": None, "hidden_size": 128, "rms_norm_eps": 0.5}
FEW_HEADS: dict[str, Any] = {"head_dim": None, "num_key_value_heads": None, "hidden_size": 128}
"""Of classes that have a head of keys for each of queries, and share the width among them."""
STARCODER_2: dict[str, Any] = {"sliding_window": WINDOW, "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 0.1}
STABLE_LM: dict[str, Any] = {"head_dim": None, "hidden_size": 128, "use_qkv_bias": True, "layer_norm_eps": 0.1}
STABLE_LM_2 = STABLE_LM | {"use_parallel_residual": True, "qk_layernorm": True}
GPT_NEOX = FEW_HEADS | {"layer_norm_eps": 0.1}
PHI = FEW_HEADS | {"qk_layernorm": True, "layer_norm_eps": 0.1}
EXPERTS: dict[str, Any] = {
    "num_local_experts": 6,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    # What rounding may exchange, an expert for the next, is not to hide everything else.
    "initializer_range": 0.15,
    "rms_norm_eps": 0.5,
}
QWEN_MOE = EXPERTS | {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 64}
QWEN_2_MOE = QWEN_MOE | {"num_experts_per_tok": 6, "head_dim": None, "hidden_size": 128, "mlp_only_layers": [1]}
GPT_2 = FEW_HEADS | {"n_inner": 192, "intermediate_size": None, "layer_norm_epsilon": 0.1}
FALCON = FEW_HEADS | {"ffn_hidden_size": 160, "layer_norm_epsilon": 0.1}
FALCON_40B = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}

ROUTER_STD = 0.5

CASES = (
    Case("Llama"),
    Case("a head of its own for each query", settings={"num_key_value_heads": 4}),
    Case("one head for all queries", settings={"num_key_value_heads": 1}),
    Case(
        "biases everywhere, a large epsilon", settings={"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 0.5}
    ),
    Case("heads of 64, embeddings tied", settings={"head_dim": 64, "tie_word_embeddings": True}),
    Case("heads of 96, an odd head", settings={"head_dim": 96, "vocab_size": 311}),
    Case("heads of 128", settings={"head_dim": 128}),
    Case("heads of 160", settings={"head_dim": 160, "num_attention_heads": 2}),
    Case("llama3 rope", settings=LLAMA3),
    Case("linear rope", settings=_scaled("linear")),
    Case("yarn rope", settings=_scaled("yarn", original_max_position_embeddings=32)),
    Case("Mistral, sliding", "MistralConfig", {"sliding_window": WINDOW}),
    Case("Mistral, not sliding", "MistralConfig", {"sliding_window": None}),
    Case("Qwen2", "Qwen2Config", {"head_dim": None, "hidden_size": 128}),
    Case("Qwen2, sliding from the second layer on", "Qwen2Config", {"head_dim": None, "hidden_size": 128, **SLIDING}),
    Case("Qwen3, a large epsilon", "Qwen3Config", {"rms_norm_eps": 0.5}),
    Case(
        "Qwen3, sliding but in the middle",
        "Qwen3Config",
        {**SLIDING, "layer_types": ALTERNATING},
    ),
    Case("Phi-3, packed projections", "Phi3Config", PHI_3),
    Case("Phi-3, sliding", "Phi3Config", PHI_3 | {"sliding_window": WINDOW}),
    Case("Gemma", "GemmaConfig"),
    Case(
        "Gemma 2, softened scores and logits",
        "Gemma2Config",
        GEMMA_2,
    ),
    Case("Gemma 3, two rotations", "Gemma3TextConfig", GEMMA_3),
    Case("OLMo 2, norms behind", "Olmo2Config", OLMO_2),
    Case("StarCoder2, sliding", "Starcoder2Config", STARCODER_2),
    Case("StableLM, a quarter of a head rotates", "StableLmConfig", STABLE_LM),
    Case("StableLM 2, parallel, norms of each head's own", "StableLmConfig", STABLE_LM_2),
    Case("GPT-NeoX, parallel with two norms", "GPTNeoXConfig", GPT_NEOX),
    Case(
        "GPT-NeoX, not parallel, relu",
        "GPTNeoXConfig",
        GPT_NEOX | {"use_parallel_residual": False, "hidden_act": "relu", "attention_bias": False},
    ),
    Case("Phi, parallel with one norm, a head with biases", "PhiConfig", PHI),
    Case("Phi, grouped heads, exact gelu", "PhiConfig", PHI | {"num_key_value_heads": 2, "hidden_act": "gelu"}),
    Case("Mixtral, sliding", "MixtralConfig", EXPERTS | {"sliding_window": WINDOW}),
    Case("Qwen2-MoE, all of six and a shared expert, a layer without experts", "Qwen2MoeConfig", QWEN_2_MOE),
    Case("Qwen3-MoE, shares divided", "Qwen3MoeConfig", QWEN_MOE | {"norm_topk_prob": True}),
    Case("OLMoE, four of six", "OlmoeConfig", OLMO_2 | EXPERTS | {"num_experts_per_tok": 4}),
    Case("GPT-2, learned positions", "GPT2Config", GPT_2),
    Case("Falcon, one head for all queries", "FalconConfig", FALCON | {"bias": True}),
    Case("Falcon, new architecture", "FalconConfig", FALCON_40B),
    Case(
        "Falcon, not parallel, a head of its own for each query",
        "FalconConfig",
        FALCON | {"multi_query": False, "parallel_attn": False},
    ),
)


def bfloat16_model(case: Case) -> Any:
    """Returns a model with wide weights, and norms and biases that show."""
    settings = {name: value for name, value in (COMMON | case.settings).items() if value is not None}
    if case.settings.get("sliding_window", WINDOW) is None:
        settings["sliding_window"] = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, case.config_class)(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner = model.get_submodule(name.rpartition(".")[0])
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif name.endswith("mlp.gate.weight"):
                # Shares that differ much: of two experts that rounding may exchange for each other, none counts much.
                parameter.normal_(std=ROUTER_STD)
            elif name.endswith("norm.weight") or isinstance(owner, nn.LayerNorm):
                parameter.uniform_(0.5, 1.5)
    return model.bfloat16().eval().requires_grad_(requires_grad=False)


def _fits(layer: nn.Module) -> bool:
    outputs, inputs = shape(layer)
    return fits_cpu_kernel(inputs, outputs)


def quantize(model: Any, *, kind: str = "nf4") -> Any:
    """Puts 4-bit layers into the place of those that bitsandbytes is given. Returns the model."""
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) in {nn.Linear, Conv1D} and _fits(module)
    ]
    for name, layer in layers:
        if name == "lm_head":
            continue
        weights = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        replacement = quantized(weights.float(), kind=kind, double=True)
        replacement.bias = layer.bias
        model.set_submodule(name, replacement)
    return model


def exact_copy(model: Any) -> Any:
    """Returns the model in float32; the weights are those that the CPU's 4-bit kernels compute with.

    Those round the scales and the table of codes to bfloat16. The 4-bit layers must not be packed yet.
    """
    plain = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            plain.set_submodule(name, _dequantized(layer))
    return plain.float().eval()


def _dequantized(layer: Any) -> nn.Linear:
    state = copy.deepcopy(layer.weight.quant_state)
    if state.nested:
        scales = bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        state.absmax, state.nested = scales.float(), False
    state.absmax = state.absmax.bfloat16().float()
    state.code = state.code.bfloat16().float()
    state.dtype = torch.float32
    codes = layer.weight.data.flatten().long()
    table = state.code[torch.stack((codes >> 4, codes & 15), dim=1).flatten()]
    weights = table.view(-1, state.blocksize) * state.absmax[:, None]
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight = nn.Parameter(weights.view(layer.out_features, layer.in_features), requires_grad=False)
    plain.bias = copy.deepcopy(layer.bias)
    return plain
