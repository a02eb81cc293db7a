"""What a model's layers keep, and which models are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV32Config,
    MiniMaxConfig,
    OpenAIGPTConfig,
    RecurrentGemmaConfig,
    xLSTMConfig,
)

from tests.worker.recurrent_models import ATTENTION, BASE, build, falcon_h1, jamba, lfm2, mamba
from tests.worker.tiny_models import tiny_llama
from worker.domain.refusal import UnsupportedModelError
from worker.loading.probe import layer_layouts
from worker.memory.layout import Layout, RecurrentShape, StateShape, TokenShape

CPU = torch.device("cpu")


def state(*sizes: int) -> StateShape:
    return StateShape(sizes, torch.float32, CPU)


def test_probing_tells_heads_and_dimensions_of_each_layer() -> None:
    layouts = layer_layouts(tiny_llama(num_hidden_layers=2))
    assert layouts == [Layout(TokenShape(2, 16, 2, 16, torch.float32, CPU))] * 2


def test_sliding_window_layers_keep_all_tokens() -> None:
    model = tiny_llama(num_hidden_layers=1, sliding_window=8, layer_types=["sliding_attention"])
    assert layer_layouts(model) == [Layout(TokenShape(2, 16, 2, 16, torch.float32, CPU))]


def test_each_layer_of_a_hybrid_model_has_a_layout_of_its_own() -> None:
    attention = Layout(TokenShape(2, 8, 2, 8, torch.float32, CPU))
    recurrent = Layout(states=(RecurrentShape(state(64, 4), state(64, 4)),))
    assert layer_layouts(build(jamba())) == [recurrent, attention, recurrent]


def test_one_layer_may_keep_both() -> None:
    both = Layout(TokenShape(2, 8, 2, 8, torch.float32, CPU), (RecurrentShape(state(80, 4), state(4, 16, 8)),))
    assert layer_layouts(build(falcon_h1())) == [both] * 3


def test_a_short_convolution_has_no_recurrent_state() -> None:
    assert layer_layouts(build(lfm2()))[0] == Layout(states=(RecurrentShape(state(32, 3), None),))


def openai_gpt() -> Any:
    return build(OpenAIGPTConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4))


def deepseek_v32() -> Any:
    return build(
        DeepseekV32Config(
            **BASE,
            **{**ATTENTION, "num_key_value_heads": 4},
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            index_n_heads=2,
            index_head_dim=16,
            index_topk=8,
            n_group=1,
            topk_group=1,
            n_shared_experts=1,
        )
    )


def recurrent_gemma() -> Any:
    settings = {key: value for key, value in ATTENTION.items() if key != "max_position_embeddings"}
    return build(RecurrentGemmaConfig(**BASE, **settings, lru_width=32, attention_window_size=16))


def xlstm() -> Any:
    return build(xLSTMConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_heads=2))


def minimax() -> Any:
    return build(
        MiniMaxConfig(
            **BASE,
            **ATTENTION,
            num_local_experts=2,
            layer_types=["linear_attention", "full_attention", "full_attention"],
        )
    )


def mamba_with_bias() -> Any:
    model = build(mamba())
    mixer = model.backbone.layers[1].mixer
    mixer.in_proj.bias = torch.nn.Parameter(torch.full((mixer.in_proj.out_features,), 0.1))
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (openai_gpt, "takes neither past_key_values nor cache_params"),
        (deepseek_v32, "keeps in DynamicIndexedLayer"),
        (recurrent_gemma, "has a LinearAttentionLayer that its forward pass leaves empty"),
        (xlstm, "'DynamicCache' object has no attribute 'rnn_state'"),
        (minimax, "MiniMax uses cache of its own"),
        (mamba_with_bias, "lets padding into the state of its recurrent layers"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_in_one_sentence(model: Callable[[], Any], reason: str) -> None:
    built = model()
    with pytest.raises(UnsupportedModelError) as refusal:
        layer_layouts(built)
    text = str(refusal.value)
    assert text.startswith(type(built).__name__)
    assert reason in text
    assert "\n" not in text
