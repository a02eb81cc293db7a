"""What the C code cannot run it refuses, with the reason, and speeds up all the same."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn

from tests.worker.runners.native.accuracy import errors, own_errors
from tests.worker.runners.native.matrices import quantized
from tests.worker.runners.native.models import (
    CASES,
    EXPERTS,
    FALCON,
    GEMMA_3,
    GPT_2,
    OLMO_2,
    PHI_3,
    QWEN_2_MOE,
    QWEN_MOE,
    Case,
    bfloat16_model,
    exact_copy,
    quantize,
)
from worker.loading.cpu_level import CpuLevel
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.runners.model_runner import ModelRunner
from worker.runners.native import assembly as native
from worker.runners.native.library import Library
from worker.runners.native.linear import take_over_linear_layers
from worker.runners.native.obstacles import obstacle
from worker.runners.native.runner import NativeRunner

CPU = torch.device("cpu")


def unchanged(model: Any) -> Any:
    return model


def float32(model: Any) -> Any:
    return model.float()


def float16(model: Any) -> Any:
    return model.half()


def hooked(model: Any) -> Any:
    add_hook_to_module(model.model.layers[1], ModelHook())
    return model


def watched(model: Any) -> Any:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    return model


def prepared(model: Any) -> Any:
    model.model.layers[1].self_attn.k_proj.register_forward_pre_hook(lambda *_: None)
    return model


class LlamaForCausalLM(transformers.LlamaForCausalLM):
    """A remote model that has the name of one that is known."""


def of_remote_code(model: Any) -> Any:
    model.__class__ = LlamaForCausalLM
    return model


def with_int8_layer(model: Any) -> Any:
    layer = model.model.layers[0].self_attn.q_proj
    int8 = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, bias=False, has_fp16_weights=False)
    int8.weight = bnb.nn.Int8Params(dense_weights(layer), requires_grad=False)
    model.model.layers[0].self_attn.q_proj = int8.to("cpu")
    return model


def dense_weights(layer: Any) -> Tensor:
    return torch.randn(layer.out_features, layer.in_features, generator=torch.Generator().manual_seed(0)) * 0.3


def with_4bit_head(model: Any) -> Any:
    model.lm_head = quantized(model.lm_head.weight.float())
    return model


def with_float32_embeddings(model: Any) -> Any:
    model.model.embed_tokens.float()
    return model


def with_strided_head(model: Any) -> Any:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.T.contiguous().T, requires_grad=False)
    return model


def with_4bit_shared_gate(model: Any) -> Any:
    network = model.model.layers[0].mlp
    network.shared_expert_gate = quantized(network.shared_expert_gate.weight.float())
    return model


@dataclass(frozen=True)
class Refused:
    """A model that the C code does not run as a whole."""

    name: str
    reason: str
    case: Case = CASES[0]
    change: Callable[[Any], Any] = unchanged
    """What is done to it when it is quantized."""
    runs: bool = True
    """Whether transformers runs it, and something of it in 4 bit."""

    def model(self) -> Any:
        return self.change(quantize(bfloat16_model(self.case)))

    def __str__(self) -> str:
        return self.name


REFUSED = (
    Refused("other norms", "it is built otherwise", Case("", "OlmoConfig")),
    Refused(
        "tokens that see what follows",
        "its tokens see what follows them",
        Case("", "Gemma3TextConfig", {"use_bidirectional_attention": True}),
    ),
    Refused("experts that clamp", "it is built otherwise", Case("", "GptOssConfig", EXPERTS)),
    Refused("another activation", "its activation is mish", Case("", settings={"hidden_act": "mish"})),
    Refused(
        "frequencies that move",
        "its rotary frequencies depend on the longest row",
        Case("", settings={"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
    ),
    Refused(
        "ALiBi",
        "its positions are biases of scores (ALiBi)",
        Case("", "FalconConfig", FALCON | {"alibi": True}),
        runs=False,
    ),
    Refused(
        "deep layers that score lower",
        "its layers scale scores differently",
        Case("", "GPT2Config", GPT_2 | {"scale_attn_by_inverse_layer_idx": True}),
    ),
    Refused(
        "clipped heads",
        "it clips queries, keys and values",
        Case("", "OlmoeConfig", OLMO_2 | EXPERTS | {"clip_qkv": 8.0}),
    ),
    Refused(
        "a gate in 4 bit for the shared expert",
        "its experts are no plain bfloat16 matrices",
        Case("", "Qwen2MoeConfig", QWEN_2_MOE),
        change=with_4bit_shared_gate,
    ),
    Refused(
        "small experts",
        "its sizes 64 and 40 are no multiples of 16",
        Case("", "Qwen3MoeConfig", QWEN_MOE | {"moe_intermediate_size": 40}),
    ),
    Refused(
        "a packed gate that cannot be parted",
        "its sizes 128 and 144 are no multiples of 32",
        Case("", "Phi3Config", PHI_3 | {"intermediate_size": 144}),
    ),
    Refused("small heads", "its heads have 16 dimensions", Case("", settings={"head_dim": 16})),
    Refused("odd heads", "its heads have 80 dimensions", Case("", settings={"head_dim": 80})),
    Refused("large heads", "its heads have 288 dimensions", Case("", settings={"head_dim": 288})),
    Refused("float32", "its head is no plain bfloat16 matrix", change=float32),
    Refused("float16", "its head is no plain bfloat16 matrix", change=float16),
    Refused("int8", "the weights of q_proj are neither bfloat16 nor 4-bit blocks", change=with_int8_layer),
    Refused("a 4-bit head", "its head is no plain bfloat16 matrix", change=with_4bit_head),
    Refused("a strided head", "its head is no plain bfloat16 matrix", change=with_strided_head),
    Refused("hooks of accelerate", "it is spread over devices", change=hooked),
    Refused("hooks", "it has hooks, which C cannot call", change=watched),
    Refused("hooks before a layer", "it has hooks, which C cannot call", change=prepared),
    Refused("remote code", "it is built otherwise", change=of_remote_code),
    Refused("float32 embeddings", "it does not compute in bfloat16", change=with_float32_embeddings, runs=False),
)


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    tokens = torch.arange(2, 42).view(2, 20)
    result: Tensor = model(tokens, use_cache=False).logits
    return result.double()


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_a_refused_model_has_its_reason(refused: Refused) -> None:
    assert obstacle(refused.model()) == refused.reason


@pytest.mark.parametrize("refused", [each for each in REFUSED if each.runs], ids=str)
def test_a_refused_model_is_as_exact_with_products_in_c(refused: Refused, library: Library) -> None:
    model = refused.model()
    before = logits(copy.deepcopy(model))
    assert take_over_linear_layers(model, library) > 0
    after = logits(model)
    assert after.isfinite().all()
    assert (after - before).square().mean().sqrt() <= 0.1 * before.square().mean().sqrt()


def test_layers_that_rotate_more_of_a_head_than_others_are_refused() -> None:
    model = bfloat16_model(Case("", "Gemma3TextConfig", GEMMA_3))
    rotary = model.model.rotary_emb
    rotary.sliding_attention_inv_freq = rotary.sliding_attention_inv_freq[:8]
    assert obstacle(model) in {
        "some of its layers rotate 32 dimensions of a head, some 16",
        "some of its layers rotate 16 dimensions of a head, some 32",
    }


def test_sizes_that_are_no_multiples_of_a_vector_are_refused() -> None:
    model = bfloat16_model(Case("", settings={"hidden_size": 72, "num_attention_heads": 4}))
    assert obstacle(model) == "its sizes 72 and 128 are no multiples of 16"


def test_a_refused_model_in_the_engine_is_as_exact_as_its_own_forward_pass(library: Library) -> None:
    model = quantize(bfloat16_model(Case("", settings={"hidden_act": "mish"})))
    exact = exact_copy(model)
    theirs = own_errors(model, exact)
    take_over_linear_layers(model, library)
    assert errors(model, ModelRunner.for_model(model, CPU), exact).are_like(theirs)


def test_layers_with_hooks_keep_their_own_forward_pass(library: Library) -> None:
    model = quantize(bfloat16_model(CASES[0]))
    layers = take_over_linear_layers(copy.deepcopy(model), library)
    add_hook_to_module(model.model.layers[1].mlp.up_proj, ModelHook())
    assert take_over_linear_layers(model, library) == layers - 1 == 20


@pytest.mark.parametrize(
    ("outputs", "inputs", "blocksize"),
    [(48, 64, 64), (64, 96, 64), (32, 2048, 2048)],
    ids=["outputs", "inputs", "block"],
)
def test_a_4bit_layer_of_another_shape_is_left_alone(
    outputs: int, inputs: int, blocksize: int, library: Library
) -> None:
    layer = quantized(torch.randn(outputs, inputs), blocksize=blocksize)
    assert take_over_linear_layers(nn.Sequential(layer), library) == 0
    assert "forward" not in vars(layer)


def test_a_layer_in_float32_answers_in_float32(library: Library) -> None:
    layer = quantized(torch.randn(32, 64))
    take_over_linear_layers(nn.Sequential(layer), library)
    x = torch.randn(2, 3, 64)
    answer = layer(x)
    assert (answer.dtype, answer.shape) == (torch.float32, (2, 3, 32))
    assert torch.equal(answer, layer(x.bfloat16()).float())
    assert torch.equal(layer(x.transpose(0, 1)), answer.transpose(0, 1))


@pytest.mark.parametrize("is_refused", [True, False])
def test_the_worker_takes_what_the_c_code_can_run(
    library: Library, level: CpuLevel, caplog: pytest.LogCaptureFixture, *, is_refused: bool
) -> None:
    caplog.set_level(logging.INFO, logger="worker.runners.native")
    model = (REFUSED[3] if is_refused else Refused("", "")).model()
    runner = native.native_runner(model, native.NativeCode(level, level.arithmetic, library))
    assert isinstance(runner, NativeRunner) != is_refused
    assert ("21 layers run in C, the rest of the model in Python: its activation is mish" in caplog.text) == is_refused
