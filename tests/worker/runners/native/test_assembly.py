"""What is loaded for the C code computes in bfloat16 if it runs as a whole, and says with what its layers multiply."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.worker.runners.native.models import CASES, Case, bfloat16_model
from worker.domain.config import Config
from worker.loading.cpu_level import Arithmetic, cpu_level
from worker.loading.loading import load
from worker.loading.weights import load_weights, read_config
from worker.runners.native.assembly import NativeCode
from worker.runners.native.library import Library

NOT_WHOLE = Case("", settings={"hidden_act": "mish"})


def code(arithmetic: Arithmetic = "int16") -> NativeCode:
    """Returns the code for a CPU on which torch computes in float32, not compiled."""
    return NativeCode(cpu_level("generic"), arithmetic, cast(Library, None))


def loaded(case: Case, folder: Path, **settings: Any) -> tuple[Any, torch.dtype]:
    """Returns a model as it is loaded for the code, and the type that it is said to compute in."""
    bfloat16_model(case).save_pretrained(folder)
    config = Config(model=str(folder), device_map="cpu", **settings)
    model, _, dtype = load_weights(config, read_config(config), code())
    return model, dtype


def dtypes(model: Any) -> set[torch.dtype]:
    return {weight.dtype for weight in model.parameters() if weight.is_floating_point()}


@pytest.mark.parametrize(
    ("case", "settings", "dtype"),
    [
        (CASES[0], {}, torch.bfloat16),
        (CASES[0], {"quantization": "none"}, torch.bfloat16),
        (CASES[0], {"quantization": "int8"}, torch.float32),
        (CASES[0], {"compute_dtype": "float32"}, torch.float32),
        *((CASES[each], {}, torch.bfloat16) for each in (25, 26, 30, 31, 34, 36)),
        (NOT_WHOLE, {}, torch.float32),
    ],
)
def test_what_runs_in_c_as_a_whole_computes_in_bfloat16(
    case: Case, settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    model, said = loaded(case, tmp_path, **settings)
    assert said is dtype
    assert dtypes(model) == {dtype}
    assert (code().obstacle(model) == "") == (dtype is torch.bfloat16)


def test_layers_of_shapes_that_the_code_does_not_take_are_not_quantized(tmp_path: Path) -> None:
    model, _ = loaded(Case("", settings={"intermediate_size": 176}), tmp_path)
    assert {type(layer.mlp.up_proj) for layer in model.model.layers} == {nn.Linear}
    assert code().obstacle(model) == ""


def test_a_checkpoint_whose_head_is_quantized_computes_in_float32(tmp_path: Path) -> None:
    bfloat16_model(Case("", settings={"vocab_size": 320})).save_pretrained(tmp_path / "plain")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["model.norm"])
    quantized = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=settings)
    quantized.save_pretrained(tmp_path / "quantized")
    config = Config(model=str(tmp_path / "quantized"), device_map="cpu")
    model, _, said = load_weights(config, read_config(config), code())
    assert code().obstacle(model) == "its head is no plain bfloat16 matrix"
    assert said is torch.float32
    assert dtypes(model) == {torch.float32}


@pytest.mark.parametrize("arithmetic", ["int16", "int8"])
def test_the_fingerprint_tells_the_arithmetic(arithmetic: Arithmetic, llama_folder: Path) -> None:
    config = Config(model=str(llama_folder), compute_dtype="float32", device_map="cpu")
    without, exact, rounded = (load(config, each) for each in (None, code("exact"), code(arithmetic)))
    assert without.facts.fingerprint == exact.facts.fingerprint != rounded.facts.fingerprint


def test_without_4bit_layers_there_is_no_arithmetic_to_tell(llama_folder: Path) -> None:
    config = Config(model=str(llama_folder), compute_dtype="float32", device_map="cpu", quantization="none")
    assert load(config, code("exact")).facts.fingerprint == load(config, code()).facts.fingerprint
