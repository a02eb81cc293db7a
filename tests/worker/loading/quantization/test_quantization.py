"""What is quantized, what is left out, and that the compute type is always set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, GPT2Config, LlamaConfig

from tests.worker.tiny_models import save_tiny_llama
from worker.domain.config import Config, Quantization
from worker.loading import cpu
from worker.loading.loading import LoadedModel, load
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.loading.quantization.quantization import awkward_layers, fits_cpu_kernel, quantization_config, skeleton
from worker.loading.weights import compute_dtype

AWKWARD: dict[str, Any] = {"intermediate_size": 172, "num_hidden_layers": 2, "attention_bias": True}
AWKWARD_NAMES = {f"model.layers.{layer}.mlp.{part}_proj" for layer in (0, 1) for part in ("gate", "up", "down")}
PRETEND = Callable[[bool], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> PRETEND:
    """Lets a test say whether this CPU has the 4-bit kernel, so that it means the same on every machine."""
    return lambda has_kernel: monkeypatch.setattr(cpu, "cpu_has_4bit_kernel", lambda: has_kernel)


@pytest.fixture(scope="module")
def awkward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unquantized model with layers that the CPU's kernel refuses."""
    return save_tiny_llama(tmp_path_factory.mktemp("awkward"), **AWKWARD)


def four_bit_layers(loaded: LoadedModel) -> dict[str, Any]:
    layers = loaded.model.named_modules()
    return {name: module for name, module in layers if isinstance(module, bnb.nn.Linear4bit)}


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
    from_llama, from_gpt2 = awkward_layers(skeleton(llama)), awkward_layers(skeleton(gpt2))
    assert {name.rpartition(".")[2] for name in from_llama} == {"gate_proj", "up_proj", "down_proj"}
    assert from_gpt2 == ["transformer.h.0.mlp.c_proj"]


@pytest.mark.parametrize("uses_cpu_kernel", [True, False])
def test_layers_are_left_out_by_name_only_where_the_kernel_is_used(
    awkward_folder: Path, *, uses_cpu_kernel: bool
) -> None:
    model = skeleton(AutoConfig.from_pretrained(awkward_folder))
    wanted, left_out = quantization_config(Config(), model, dtype=torch.float32, uses_cpu_kernel=uses_cpu_kernel)
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
    assert compute_dtype(Config()) is dtype


def test_a_gpu_that_is_not_used_does_not_set_the_compute_type(
    pretend: PRETEND, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    pretend(False)
    assert compute_dtype(Config(device_map="cpu")) is torch.float32
    assert compute_dtype(Config(device_map='{"": "cpu"}')) is torch.float32
    assert compute_dtype(Config(device_map="auto")) is torch.bfloat16


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


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("skipped", "names"),
    [
        (("model.layers.1",), [f"model.layers.{layer}." for layer in (0, 2)]),
        (("q_proj", ".*mlp"), ["k_proj", "v_proj", "o_proj"]),
        ((r"model\.layers\.[01]",), ["model.layers.2."]),
    ],
    ids=str,
)
def test_modules_can_be_left_alone_by_name_by_end_of_name_and_by_pattern(
    llama_folder: Path, kind: Quantization, skipped: tuple[str, ...], names: list[str]
) -> None:
    loaded = load(Config(model=str(llama_folder), quantization=kind, skip_modules=skipped))
    layers = linear_layers(loaded)
    chosen = {name for name in layers if any(part in name for part in names) and name != "lm_head"}
    quantized = {name for name, layer in layers.items() if type(layer) is not nn.Linear}
    assert quantized == chosen
    assert 0 < len(chosen) < 21


def linear_layers(loaded: LoadedModel) -> dict[str, nn.Module]:
    return {name: module for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("nonsense", "no linear layer has such a name"), ("model.norm", "no linear layer"), ("(", "--skip-modules")],
)
def test_unknown_modules_are_refused_by_name(llama_folder: Path, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load(Config(model=str(llama_folder), skip_modules=("q_proj", pattern)))
    assert pattern in str(error.value)


OUTLIER = 100.0


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_int8_rows_depend_on_their_neighbours_unless_the_threshold_is_0(llama_folder: Path, threshold: float) -> None:
    config = Config(model=str(llama_folder), quantization="int8", int8_threshold=threshold, compute_dtype="float32")
    layer = load(config).model.model.layers[0].self_attn.q_proj
    quiet = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    loud = quiet.clone()
    loud[0, 5] = OUTLIER
    with torch.inference_mode():
        alone, beside = layer(quiet), layer(torch.cat([quiet, loud]))[:1]
    assert torch.equal(alone, beside) is (threshold == 0)


@pytest.mark.parametrize(("threshold", "says"), [(0.0, False), (6.0, True)])
def test_a_line_says_that_int8_rows_depend_on_each_other(
    llama_folder: Path, caplog: pytest.LogCaptureFixture, threshold: float, *, says: bool
) -> None:
    load(Config(model=str(llama_folder), quantization="int8", int8_threshold=threshold))
    assert ("outlier columns (from 6 on) over the whole batch" in caplog.text) is says
