"""The fingerprint tells models apart, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.tiny_models import tiny_llama
from worker.domain.config import Config
from worker.loading.facts import fingerprint
from worker.loading.loading import load


def print_of(model: nn.Module) -> str:
    return fingerprint(model, "none", torch.float32)


def test_equal_models_have_equal_fingerprints() -> None:
    assert print_of(tiny_llama()) == print_of(tiny_llama())
    assert len(print_of(tiny_llama())) == 16
    int(print_of(tiny_llama()), 16)


def test_fingerprints_differ_with_weights_quantization_and_compute_type() -> None:
    model = tiny_llama()
    prints = {
        print_of(model),
        print_of(tiny_llama(seed=1)),
        print_of(tiny_llama(num_hidden_layers=2)),
        fingerprint(model, "nf4", torch.float32),
        fingerprint(model, "none", torch.bfloat16),
    }
    assert len(prints) == 5


def test_the_scales_of_quantized_weights_count_too(llama_folder: Path) -> None:
    scaled: Any = tiny_llama()
    with torch.no_grad():
        scaled.model.layers[1].mlp.up_proj.weight *= 2
    scaled_folder = llama_folder.parent / "scaled"
    scaled.save_pretrained(scaled_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (scaled_folder / name).write_bytes((llama_folder / name).read_bytes())
    ours, theirs = (load(Config(model=str(folder))).facts.fingerprint for folder in (llama_folder, scaled_folder))
    assert ours != theirs


def test_the_shapes_and_names_of_equal_bytes_count_too() -> None:
    data = torch.arange(6.0)
    shapes = [{"a": (2, 3)}, {"a": (3, 2)}, {"b": (2, 3)}]
    modules = [
        nn.ParameterDict({name: nn.Parameter(data.view(shape)) for name, shape in each.items()}) for each in shapes
    ]
    assert len({print_of(module) for module in modules}) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.uint8])
def test_tensors_of_any_type_and_shape_have_a_fingerprint(dtype: torch.dtype) -> None:
    module = nn.Module()
    for number, shape in enumerate([(), (0,), (1,), (3, 5), (5000, 3)]):
        tensor = torch.ones(shape).to(dtype)
        module.register_parameter(f"p{number}", nn.Parameter(tensor, requires_grad=False))
    assert print_of(module) == print_of(module)


@pytest.mark.parametrize(("threshold", "other"), [(6.0, 5.0), (6.0, 0.0)])
def test_the_outlier_threshold_of_int8_counts(llama_folder: Path, threshold: float, other: float) -> None:
    ours, theirs, again = (
        load(Config(model=str(llama_folder), quantization="int8", int8_threshold=each)).facts.fingerprint
        for each in (threshold, other, threshold)
    )
    assert ours == again != theirs
