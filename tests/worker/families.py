"""The model families that the worker is tested with: one entry each, from which the table of docs/models.md is made.

After a change `python -m tests.worker.families_table --write` writes the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.worker.tiny_models import BOS, EOS, VOCAB_SIZE

WINDOW = 12
"""Tokens that a layer with a sliding window sees: fewer than most prompts have."""
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": None,
    "tie_word_embeddings": False,  # a tied random model repeats its input
}
"""Settings of every family, under the names that transformers maps to each family's own."""


@dataclass(frozen=True)
class Family:
    """A kind of model, and the settings of a tiny one."""

    name: str
    config_class: str
    """Name of transformers' configuration class."""
    settings: dict[str, Any]
    """What differs from COMMON."""
    positions: str
    """How the model knows the order of its tokens."""
    spread: float
    """Standard deviation of the weights: wide, but less where rounding errors grow from layer to layer."""
    is_served: bool


def family(
    name: str,
    config_class: str,
    *shared: Mapping[str, Any],
    positions: str = "rotary",
    spread: float = 0.25,
    is_served: bool = True,
    **settings: Any,
) -> Family:
    """Returns a family whose settings are the shared ones and its own."""
    merged = {key: value for mapping in (*shared, settings) for key, value in mapping.items()}
    return Family(name, config_class, merged, positions, spread, is_served)


GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
SLIDING = {"sliding_window": WINDOW}
ALTERNATING = SLIDING | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 24}
TWO_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
EXPERTS = TWO_EXPERTS | {"num_experts": 4}
LOCAL_EXPERTS = TWO_EXPERTS | {"num_local_experts": 4}
ROUTED_EXPERTS = TWO_EXPERTS | {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
MAMBA = {"num_key_value_heads": 2, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
DELTA_AND_FULL = DELTA | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}

FAMILIES = (
    family("Llama", "LlamaConfig", GROUPED),
    family(
        "Llama 4",
        "Llama4TextConfig",
        GROUPED,
        LOCAL_EXPERTS,
        num_hidden_layers=4,
        intermediate_size_mlp=96,
        attention_chunk_size=WINDOW,
        interleave_moe_layer_step=2,
    ),
    family("Mistral", "MistralConfig", GROUPED, SLIDING),
    family("Ministral 3", "Ministral3Config", GROUPED, SLIDING),
    family("Mixtral", "MixtralConfig", GROUPED, SLIDING, LOCAL_EXPERTS),
    family("Qwen2", "Qwen2Config", GROUPED, SLIDING, use_sliding_window=True, max_window_layers=1),
    family("Qwen2-MoE", "Qwen2MoeConfig", GROUPED, EXPERTS, shared_expert_intermediate_size=32),
    family("Qwen3", "Qwen3Config", GROUPED),
    family("Qwen3-MoE", "Qwen3MoeConfig", GROUPED, EXPERTS),
    family("MiniCPM3", "MiniCPM3Config", LATENT, num_key_value_heads=4),
    family("Gemma", "GemmaConfig", GROUPED),
    family("Gemma 2", "Gemma2Config", GROUPED, ALTERNATING, query_pre_attn_scalar=16),
    family("Gemma 3", "Gemma3TextConfig", GROUPED, ALTERNATING, query_pre_attn_scalar=16),
    family(
        "Gemma 4",
        "Gemma4TextConfig",
        GROUPED,
        SLIDING,
        global_head_dim=32,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCAB_SIZE,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    family("VaultGemma", "VaultGemmaConfig", GROUPED, ALTERNATING, query_pre_attn_scalar=16),
    family("Phi", "PhiConfig"),
    family("Phi-3", "Phi3Config", GROUPED, SLIDING),
    family("Phi-MoE", "PhimoeConfig", GROUPED, LOCAL_EXPERTS),
    family("GPT-2", "GPT2Config", positions="learned"),
    family(
        "GPT-Neo",
        "GPTNeoConfig",
        positions="learned",
        num_hidden_layers=2,
        attention_types=[[["global", "local"], 1]],
        window_size=WINDOW,
    ),
    family("GPT-NeoX", "GPTNeoXConfig"),
    family("GPT-J", "GPTJConfig", rotary_dim=8),
    family("GPT-BigCode", "GPTBigCodeConfig", positions="learned"),
    family("CodeGen", "CodeGenConfig", rotary_dim=8),
    family("OPT", "OPTConfig", positions="learned", ffn_dim=96, word_embed_proj_dim=64),
    family("BioGPT", "BioGptConfig", positions="learned"),
    family("XGLM", "XGLMConfig", positions="sinusoidal", ffn_dim=96),
    family("BLOOM", "BloomConfig", positions="ALiBi"),
    family("MPT", "MptConfig", positions="ALiBi"),
    family("Falcon (rotary)", "FalconConfig", new_decoder_architecture=True, num_kv_heads=2),
    family("Falcon (ALiBi)", "FalconConfig", positions="ALiBi", alibi=True, parallel_attn=False),
    family("StarCoder2", "Starcoder2Config", GROUPED, SLIDING),
    family("StableLM", "StableLmConfig", num_key_value_heads=2),
    family("Cohere", "CohereConfig", GROUPED, logit_scale=1.0),
    family("Cohere2", "Cohere2Config", GROUPED, ALTERNATING, logit_scale=1.0),
    family("OLMo", "OlmoConfig", GROUPED),
    family("OLMo 2", "Olmo2Config", GROUPED),
    family("OLMo 3", "Olmo3Config", GROUPED, ALTERNATING),
    family("OLMoE", "OlmoeConfig", GROUPED, EXPERTS),
    family("GPT-OSS", "GptOssConfig", GROUPED, LOCAL_EXPERTS, ALTERNATING, spread=0.2),
    family("DeepSeek-V2", "DeepseekV2Config", LATENT, ROUTED_EXPERTS),
    family("DeepSeek-V3", "DeepseekV3Config", LATENT, ROUTED_EXPERTS),
    family("GLM", "GlmConfig", GROUPED),
    family("GLM-4", "Glm4Config", GROUPED),
    family("GLM-4-MoE", "Glm4MoeConfig", GROUPED, ROUTED_EXPERTS),
    family("Granite", "GraniteConfig", GROUPED, attention_multiplier=0.25),
    family("Granite-MoE", "GraniteMoeConfig", GROUPED, LOCAL_EXPERTS, attention_multiplier=0.25),
    family("Nemotron", "NemotronConfig", GROUPED, spread=0.15),
    family("Persimmon", "PersimmonConfig"),
    family("SmolLM3", "SmolLM3Config", GROUPED),
    family("EXAONE 4", "Exaone4Config", GROUPED, ALTERNATING),
    family("ERNIE 4.5", "Ernie4_5Config", GROUPED),
    family("Apertus", "ApertusConfig", GROUPED),
    family("Arcee", "ArceeConfig", GROUPED),
    family("Seed-OSS", "SeedOssConfig", GROUPED),
    family("Helium", "HeliumConfig", GROUPED),
    family("BitNet", "BitNetConfig", GROUPED),
    family("DiffLlama", "DiffLlamaConfig", GROUPED),
    family("MiniMax-M2", "MiniMaxM2Config", GROUPED, LOCAL_EXPERTS),
    family("Mamba", "MambaConfig", positions="none", state_size=8),
    family("Falcon-Mamba", "FalconMambaConfig", positions="none", state_size=8),
    family(
        "Mamba-2",
        "Mamba2Config",
        positions="none",
        num_heads=8,
        head_dim=16,
        n_groups=2,
        state_size=16,
        chunk_size=8,
    ),
    family(
        "Jamba",
        "JambaConfig",
        EXPERTS,
        positions="none",
        spread=0.2,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
    ),
    family("Bamba", "BambaConfig", MAMBA, spread=0.2, attn_layer_indices=[1]),
    family(
        "Zamba2",
        "Zamba2Config",
        spread=0.2,
        use_mem_rope=True,
        adapter_rank=8,
        chunk_size=8,
        layers_block_type=["mamba", "hybrid", "mamba"],
        n_mamba_heads=8,
        mamba_d_state=16,
        num_key_value_heads=4,
    ),
    family(
        "Granite hybrid",
        "GraniteMoeHybridConfig",
        MAMBA,
        LOCAL_EXPERTS,
        positions="none",
        spread=0.2,
        attention_multiplier=0.25,
        shared_intermediate_size=32,
        layer_types=["mamba", "attention", "mamba"],
    ),
    family("Falcon-H1", "FalconH1Config", MAMBA, spread=0.2, mamba_d_ssm=128),
    family(
        "Nemotron-H",
        "NemotronHConfig",
        GROUPED,
        ROUTED_EXPERTS,
        positions="none",
        spread=0.15,
        layers_block_type=["mamba", "attention", "moe"],
        mamba_num_heads=8,
        mamba_head_dim=16,
        n_groups=2,
        ssm_state_size=16,
        chunk_size=8,
        moe_shared_expert_intermediate_size=32,
    ),
    family(
        "Qwen3-Next",
        "Qwen3NextConfig",
        GROUPED,
        EXPERTS,
        DELTA_AND_FULL,
        spread=0.1,
        shared_expert_intermediate_size=32,
    ),
    family("Qwen3.5", "Qwen3_5TextConfig", GROUPED, DELTA_AND_FULL, spread=0.1),
    family(
        "Qwen3.5-MoE",
        "Qwen3_5MoeTextConfig",
        GROUPED,
        EXPERTS,
        DELTA_AND_FULL,
        spread=0.1,
        shared_expert_intermediate_size=32,
    ),
    family(
        "Kimi-Linear",
        "KimiLinearConfig",
        LATENT,
        EXPERTS,
        ROUTED_EXPERTS,
        positions="none",
        spread=0.1,
        num_key_value_heads=4,
        linear_num_heads=4,
        linear_head_dim=16,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
    family(
        "LFM2", "Lfm2Config", num_key_value_heads=2, block_multiple_of=8, layer_types=["conv", "full_attention", "conv"]
    ),
    family(
        "LFM2-MoE",
        "Lfm2MoeConfig",
        GROUPED,
        EXPERTS,
        num_dense_layers=1,
        layer_types=["conv", "full_attention", "conv"],
    ),
    family("RWKV", "RwkvConfig", positions="none", is_served=False),
    family("xLSTM", "xLSTMConfig", positions="none", is_served=False),
    family("RecurrentGemma", "RecurrentGemmaConfig", is_served=False),
)


def tiny_model(wanted: Family, *, seed: int = 1) -> Any:
    """Returns a float32 model with wide random weights."""
    config = getattr(transformers, wanted.config_class)(**(COMMON | wanted.settings))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=wanted.spread)
    return model
