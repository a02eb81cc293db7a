"""Tiny relatives of Llama for tests."""

from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.worker.tiny_models import VOCAB_SIZE

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB_SIZE,
    "initializer_range": 0.3,
    "pad_token_id": None,
}


def mistral(sliding_window: int | None = None) -> Any:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=sliding_window)).eval()


def qwen2() -> Any:
    model: Any = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            torch.nn.init.normal_(projection.bias)
    return model


def qwen3() -> Any:
    model: Any = Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_norm.weight)
        torch.nn.init.normal_(layer.self_attn.k_norm.weight)
    return model
