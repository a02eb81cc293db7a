"""Tiny random models with recurrent layers, alone and beside attention, initialized wide."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    FalconH1Config,
    FalconMambaConfig,
    GraniteMoeHybridConfig,
    JambaConfig,
    Lfm2Config,
    Mamba2Config,
    MambaConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
    Zamba2Config,
)

VOCAB_SIZE = 64
BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ATTENTION: dict[str, Any] = {
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def mamba() -> PreTrainedConfig:
    return MambaConfig(**BASE, state_size=4)


def falcon_mamba() -> PreTrainedConfig:
    return FalconMambaConfig(**BASE, state_size=4)


def mamba2() -> PreTrainedConfig:
    return Mamba2Config(**BASE, state_size=8, num_heads=4, head_dim=16, n_groups=2, chunk_size=4)


def jamba() -> PreTrainedConfig:
    return JambaConfig(
        **BASE,
        **ATTENTION,
        attn_layer_period=3,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=2,
        mamba_d_state=4,
        mamba_dt_rank=4,
    )


def bamba() -> PreTrainedConfig:
    return BambaConfig(
        **BASE,
        **ATTENTION,
        attn_layer_indices=[1],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=4,
    )


def qwen3_next() -> PreTrainedConfig:
    return Qwen3NextConfig(
        **BASE,
        **ATTENTION,
        head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )


def granite() -> PreTrainedConfig:
    return GraniteMoeHybridConfig(
        **BASE,
        **ATTENTION,
        layer_types=["mamba", "attention", "mamba"],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=4,
        shared_intermediate_size=16,
        num_local_experts=0,
    )


def zamba2() -> PreTrainedConfig:
    return Zamba2Config(
        **BASE,
        **ATTENTION,
        mamba_d_state=8,
        n_mamba_heads=4,
        mamba_ngroups=1,
        chunk_size=4,
        layers_block_type=["mamba", "hybrid", "mamba"],
        num_mem_blocks=1,
        use_mem_rope=True,
        adapter_rank=4,
    )


def falcon_h1() -> PreTrainedConfig:
    return FalconH1Config(
        **BASE,
        **ATTENTION,
        mamba_d_ssm=64,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=4,
    )


def lfm2() -> PreTrainedConfig:
    return Lfm2Config(**BASE, **ATTENTION, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8)


FAMILIES = [mamba, falcon_mamba, mamba2, jamba, bamba, qwen3_next, granite, zamba2, falcon_h1, lfm2]


def build(config: PreTrainedConfig) -> Any:
    """Returns a float32 model."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
