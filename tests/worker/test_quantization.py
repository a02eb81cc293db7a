"""What is quantized, what is left out, and that the compute type is always set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig

from tests.worker.tiny_models import save_tiny_llama, tiny_tokenizer
from worker import quantization
from worker.bitsandbytes_offline import bnb
from worker.config import Config, Quantization
from worker.loading import LoadedModel, load
from worker.quantization import awkward_layers, fits_cpu_kernel, quantization_config

AWKWARD = {"intermediate_size": 172, "num_hidden_layers": 2, "attention_bias": True}
AWKWARD_NAMES = {f"model.layers.{layer}.mlp.{part}_proj" for layer in (0, 1) for part in ("gate", "up", "down")}
PRETEND = Callable[[bool], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> PRETEND:
    """Lets a test say whether this CPU has the 4-bit kernel, so that it means the same on every machine."""
    return lambda has_kernel: monkeypatch.setattr(quantization, "cpu_has_4bit_kernel", lambda: has_kernel)


@pytest.fixture(scope="module")
def awkward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unquantized model with layers that the CPU's kernel refuses."""
    return save_tiny_llama(tmp_path_factory.mktemp("awkward"), **AWKWARD)


def four_bit_layers(loaded: LoadedModel) -> dict[str, Any]:
    layers = loaded.model.named_modules()
    return {name: module for name, module in layers if isinstance(module, bnb.nn.Linear4bit)}


def save(loaded: LoadedModel, folder: Path) -> Path:
    loaded.model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = loaded.model(torch.tensor([[5, 6, 7, 8]])).logits
    return output


@pytest.mark.parametrize(
    ("in_features", "out_features", "fits"),
    [(64, 32, True), (128, 96, True), (64, 172, False), (172, 64, False), (32, 32, False), (64, 16, False)],
)
def test_the_cpu_kernel_takes_outputs_by_32_and_inputs_by_64(
    in_features: int, out_features: int, *, fits: bool
) -> None:
    assert fits_cpu_kernel(in_features, out_features) is fits


def test_awkward_layers_are_found_in_both_kinds_of_linear_layer() -> None:
    llama = LlamaConfig(
        hidden_size=64, intermediate_size=172, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
    )
    gpt2 = GPT2Config(n_embd=64, n_inner=96, n_layer=1, n_head=4, vocab_size=64)
    with torch.device("meta"):
        from_llama = awkward_layers(AutoModelForCausalLM.from_config(llama))
        from_gpt2 = awkward_layers(AutoModelForCausalLM.from_config(gpt2))
    assert {name.rpartition(".")[2] for name in from_llama} == {"gate_proj", "up_proj", "down_proj"}
    assert from_gpt2 == ["transformer.h.0.mlp.c_proj"]


@pytest.mark.parametrize("uses_cpu_kernel", [True, False])
def test_layers_are_left_out_by_name_only_where_the_kernel_is_used(
    awkward_folder: Path, *, uses_cpu_kernel: bool
) -> None:
    wanted, left_out = quantization_config(
        Config(), AutoConfig.from_pretrained(awkward_folder), dtype=torch.float32, uses_cpu_kernel=uses_cpu_kernel
    )
    assert wanted is not None
    assert set(left_out) == (AWKWARD_NAMES if uses_cpu_kernel else set())
    assert set(wanted.llm_int8_skip_modules or ()) == {"lm_head", *left_out}
    assert wanted.bnb_4bit_compute_dtype is torch.float32


def test_awkward_layers_stay_plain_and_the_share_says_how_much_is_4_bit(
    awkward_folder: Path, pretend: PRETEND, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(True)
    with caplog.at_level("INFO", logger="worker"):
        loaded = load(Config(model=str(awkward_folder)))
    layers = four_bit_layers(loaded)
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    in_4_bit = 2 * (2 * 64 * 64 + 2 * 64 * 32)
    biases = 2 * (64 + 64 + 32 + 32)
    others = 2 * 320 * 64 + 2 * 3 * 64 * 172 + 5 * 64 + biases
    assert loaded.facts.quantized_share == pytest.approx(in_4_bit / (in_4_bit + others))
    assert "6 layers are not quantized" in caplog.text
    assert "model.layers.0.mlp.gate_proj" in caplog.text


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_4_bit_kinds_and_double_quantization_are_as_asked(
    llama_folder: Path, kind: Quantization, *, double: bool
) -> None:
    loaded = load(Config(model=str(llama_folder), quantization=kind, double_quantization=double))
    layers = four_bit_layers(loaded)
    assert len(layers) == 3 * 7
    assert loaded.facts.quantization == kind
    assert {layer.weight.quant_type for layer in layers.values()} == {kind}
    assert {layer.weight.quant_state.nested for layer in layers.values()} == {double}


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_the_compute_type_is_set_on_every_4_bit_layer(llama_folder: Path, name: Any) -> None:
    loaded = load(Config(model=str(llama_folder), compute_dtype=name))
    dtype = getattr(torch, name)
    layers = four_bit_layers(loaded).values()
    assert {(layer.compute_dtype, layer.compute_type_is_set) for layer in layers} == {(dtype, True)}
    assert loaded.model.get_input_embeddings().weight.dtype is dtype


@pytest.mark.parametrize(("has_kernel", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_computes_in_bfloat16_where_its_kernel_does(
    pretend: PRETEND, monkeypatch: pytest.MonkeyPatch, *, has_kernel: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pretend(has_kernel)
    assert quantization_dtype() is dtype


def quantization_dtype() -> torch.dtype:
    from worker.loading import compute_dtype

    return compute_dtype(Config())


def test_int8_quantizes_all_linear_layers_but_the_head(llama_folder: Path) -> None:
    loaded = load(Config(model=str(llama_folder), quantization="int8"))
    kinds = [m for m in loaded.model.modules() if isinstance(m, bnb.nn.Linear8bitLt)]
    assert loaded.facts.quantization == "int8"
    assert len(kinds) == 3 * 7
    assert 0.5 < loaded.facts.quantized_share < 1


def test_without_quantization_nothing_is_quantized(llama_folder: Path) -> None:
    loaded = load(Config(model=str(llama_folder), quantization="none"))
    assert (loaded.facts.quantization, loaded.facts.quantized_share) == ("none", 0)
    assert four_bit_layers(loaded) == {}


def test_a_quantized_checkpoint_is_taken_as_it_is_whatever_the_flag_says(llama_folder: Path, tmp_path: Path) -> None:
    original = load(Config(model=str(llama_folder), quantization="fp4", compute_dtype="float32"))
    folder = save(original, tmp_path)
    again = load(Config(model=str(folder), quantization="int8", compute_dtype="float32"))
    assert again.facts.quantization == "fp4"
    assert again.facts.quantized_share == original.facts.quantized_share
    ours, theirs = four_bit_layers(again), four_bit_layers(original)
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        assert torch.equal(layer.weight.data, theirs[name].weight.data)


@pytest.mark.parametrize(("saved", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_types_of_a_quantized_checkpoint_are_overridden(
    llama_folder: Path, tmp_path: Path, saved: Any, asked: Any
) -> None:
    folder = save(load(Config(model=str(llama_folder), compute_dtype=saved)), tmp_path)
    again = load(Config(model=str(folder), compute_dtype=asked))
    dtype = getattr(torch, asked)
    assert {layer.compute_dtype for layer in four_bit_layers(again).values()} == {dtype}
    assert {p.dtype for p in again.model.parameters() if not isinstance(p, bnb.nn.Params4bit)} == {dtype}
    assert logits(again).isfinite().all()


def test_weights_that_their_class_wants_in_float32_stay_so() -> None:
    model = nn.ModuleDict({"router": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    model._keep_in_fp32_modules = ["router"]  # type: ignore[assignment] # as transformers' classes have it
    quantization.set_compute_dtype(model, torch.bfloat16)
    assert {name: p.dtype for name, p in model.named_parameters() if name.endswith("weight")} == {
        "router.weight": torch.float32,
        "other.weight": torch.bfloat16,
    }


def test_awkward_layers_of_a_quantized_checkpoint_are_dequantized(
    awkward_folder: Path, pretend: PRETEND, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(False)
    original = load(Config(model=str(awkward_folder)))
    assert set(four_bit_layers(original)) > AWKWARD_NAMES
    folder = save(original, tmp_path)
    pretend(True)
    loaded = load(Config(model=str(folder), compute_dtype="float32"))
    assert "6 layers are not quantized" in caplog.text
    assert not AWKWARD_NAMES & set(four_bit_layers(loaded))
    for name in AWKWARD_NAMES:
        source, plain = original.model.get_submodule(name), loaded.model.get_submodule(name)
        wanted = bnb.functional.dequantize_4bit(source.weight.data, source.weight.quant_state)
        assert type(plain) is nn.Linear
        assert torch.equal(plain.weight, wanted)


def test_a_dequantized_layer_keeps_its_bias() -> None:
    layer = bnb.nn.Linear4bit(64, 48, bias=True, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    model = nn.Sequential(layer)
    inputs = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert quantization.dequantize_awkward_layers(model, torch.float32) == ("0",)
    assert torch.equal(model[0](inputs), nn.functional.linear(inputs, weight, layer.bias))


@pytest.mark.parametrize("has_kernel", [True, False])
def test_a_model_with_awkward_shapes_runs_on_this_machine_whatever_it_has(
    awkward_folder: Path, tmp_path: Path, pretend: PRETEND, *, has_kernel: bool
) -> None:
    has_kernel_here = quantization.cpu_has_4bit_kernel()
    pretend(has_kernel)
    folder = save(load(Config(model=str(awkward_folder))), tmp_path)
    pretend(has_kernel_here)
    assert logits(load(Config(model=str(folder)))).isfinite().all()
