"""Checkpoints that bitsandbytes has quantized before: loaded as they are, computed with as told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.worker.tiny_models import save_tiny_llama, tiny_tokenizer
from worker.domain.config import Config
from worker.loading import cpu
from worker.loading.loading import LoadedModel, load
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.loading.quantization.quantization import dequantize_awkward_layers, set_compute_dtype

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


def layers_of(loaded: LoadedModel, kind: type[Any]) -> dict[str, Any]:
    return {name: module for name, module in loaded.model.named_modules() if isinstance(module, kind)}


def four_bit_layers(loaded: LoadedModel) -> dict[str, Any]:
    return layers_of(loaded, bnb.nn.Linear4bit)


def save(loaded: LoadedModel, folder: Path) -> Path:
    loaded.model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = loaded.model(torch.tensor([[5, 6, 7, 8]])).logits
    return output


def quantized_elsewhere(source: Path, folder: Path, **settings: Any) -> Path:
    """Writes a checkpoint as somebody without textserve would, with any quantization config."""
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, device_map="cpu", quantization_config=BitsAndBytesConfig(**settings)
    )
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("storage", ["uint8", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_any_4_bit_config_is_loaded_and_reported_as_it_is_and_computes_the_same(
    llama_folder: Path, tmp_path: Path, kind: Any, storage: str, *, double: bool
) -> None:
    folder = quantized_elsewhere(
        llama_folder,
        tmp_path,
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_quant_storage=storage,
        bnb_4bit_compute_dtype="float16",
    )
    ours = load(Config(model=str(llama_folder), quantization=kind, double_quantization=double, compute_dtype="float32"))
    theirs = load(Config(model=str(folder), quantization="int8", compute_dtype="float32"))
    assert (theirs.facts.quantization, theirs.facts.quantized_share) == (kind, ours.facts.quantized_share)
    layers = four_bit_layers(theirs)
    assert {layer.weight.dtype for layer in layers.values()} == {getattr(torch, storage)}
    assert {layer.weight.quant_state.nested for layer in layers.values()} == {double}
    assert {layer.compute_dtype for layer in layers.values()} == {torch.float32}
    assert (theirs.facts.fingerprint == ours.facts.fingerprint) is (storage == "uint8")
    assert torch.equal(logits(theirs), logits(ours))


def test_modules_that_a_checkpoint_left_alone_stay_so(llama_folder: Path, tmp_path: Path) -> None:
    folder = quantized_elsewhere(
        llama_folder, tmp_path, load_in_4bit=True, llm_int8_skip_modules=["lm_head", "q_proj", "model.layers.0"]
    )
    names = four_bit_layers(load(Config(model=str(folder)))).keys()
    assert len(names) == 2 * 6
    assert not [name for name in names if "q_proj" in name or "layers.0" in name]


@pytest.mark.parametrize("threshold", [0.0, 4.5])
def test_an_int8_checkpoint_keeps_its_outlier_threshold(llama_folder: Path, tmp_path: Path, threshold: float) -> None:
    folder = quantized_elsewhere(llama_folder, tmp_path, load_in_8bit=True, llm_int8_threshold=threshold)
    ours = load(Config(model=str(llama_folder), quantization="int8", int8_threshold=threshold, compute_dtype="float32"))
    theirs = load(Config(model=str(folder), quantization="nf4", compute_dtype="float32"))
    assert theirs.facts.quantization == "int8"
    assert {layer.state.threshold for layer in layers_of(theirs, bnb.nn.Linear8bitLt).values()} == {threshold}
    assert theirs.facts.fingerprint == ours.facts.fingerprint
    assert torch.equal(logits(theirs), logits(ours))


def test_a_quantized_checkpoint_is_placed_by_a_device_map_of_modules(llama_folder: Path, tmp_path: Path) -> None:
    folder = quantized_elsewhere(llama_folder, tmp_path, load_in_4bit=True)
    placed = load(Config(model=str(folder), device_map='{"model": "cpu", "lm_head": "cpu"}'))
    assert placed.facts.fingerprint == load(Config(model=str(folder))).facts.fingerprint
    with pytest.raises(ValueError, match="has no such module"):
        load(Config(model=str(folder), device_map='{"": "cpu", "head": "cpu"}'))


def test_skipping_modules_of_a_quantized_checkpoint_has_no_effect_and_a_line_says_so(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = quantized_elsewhere(llama_folder, tmp_path, load_in_4bit=True)
    assert len(four_bit_layers(load(Config(model=str(folder), skip_modules=("q_proj",))))) == 3 * 7
    assert "--skip-modules has no effect" in caplog.text


@pytest.mark.parametrize(("saved", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_types_of_a_quantized_checkpoint_are_overridden(
    llama_folder: Path, tmp_path: Path, saved: Any, asked: Any
) -> None:
    folder = save(load(Config(model=str(llama_folder), compute_dtype=saved)), tmp_path)
    again = load(Config(model=str(folder), compute_dtype=asked))
    dtype = getattr(torch, asked)
    layers = four_bit_layers(again).values()
    assert {(layer.compute_dtype, layer.weight.quant_state.dtype) for layer in layers} == {(dtype, dtype)}
    assert {p.dtype for p in again.model.parameters() if not isinstance(p, bnb.nn.Params4bit)} == {dtype}
    assert logits(again).isfinite().all()


def test_weights_that_their_class_wants_in_float32_stay_so() -> None:
    model = nn.ModuleDict({"router": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    model._keep_in_fp32_modules = ["router"]  # type: ignore[assignment] # as transformers' classes have it
    set_compute_dtype(model, torch.bfloat16)
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
    assert dequantize_awkward_layers(model, torch.float32) == ("0",)
    assert torch.equal(model[0](inputs), nn.functional.linear(inputs, weight, layer.bias))


@pytest.mark.parametrize("has_kernel", [True, False])
def test_a_model_with_awkward_shapes_runs_on_this_machine_whatever_it_has(
    awkward_folder: Path, tmp_path: Path, pretend: PRETEND, *, has_kernel: bool
) -> None:
    has_kernel_here = cpu.cpu_has_4bit_kernel()
    pretend(has_kernel)
    folder = save(load(Config(model=str(awkward_folder))), tmp_path)
    pretend(has_kernel_here)
    assert logits(load(Config(model=str(folder)))).isfinite().all()
