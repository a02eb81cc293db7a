"""What a worker knows of its model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, LlamaConfig

from tests.worker.tiny_models import tiny_llama
from worker.config import Config
from worker.facts import GenerationDefaults, context_length, eos_token_ids, fingerprint
from worker.loading import load

UNKNOWN_LENGTH = SimpleNamespace(model_max_length=10**30)


@pytest.mark.parametrize(
    ("configured", "of_tokenizer", "expected"),
    [(7, 9, (7,)), ([7, 8], 9, (7, 8)), (None, 9, (9,)), (None, None, ()), (0, 9, (0,)), (None, 0, (0,))],
)
def test_the_generation_config_says_what_ends_a_sequence_else_the_tokenizer(
    configured: Any, of_tokenizer: Any, expected: tuple[int, ...]
) -> None:
    found = eos_token_ids(SimpleNamespace(eos_token_id=configured), SimpleNamespace(eos_token_id=of_tokenizer))
    assert found == expected


@pytest.mark.parametrize(
    ("config", "expected"), [(LlamaConfig(max_position_embeddings=77), 77), (GPT2Config(n_positions=55), 55)]
)
def test_the_context_length_is_the_models(config: Any, expected: int) -> None:
    assert context_length(config, SimpleNamespace(model_max_length=5)) == expected


def without_length() -> Any:
    """A configuration that says nothing, as those of models with ALiBi."""
    config = SimpleNamespace()
    config.get_text_config = lambda: config
    return config


def test_the_context_length_is_the_tokenizers_where_the_model_says_nothing() -> None:
    assert context_length(without_length(), SimpleNamespace(model_max_length=2048)) == 2048


def test_an_unknown_context_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="context length"):
        context_length(without_length(), UNKNOWN_LENGTH)


def test_defaults_are_what_is_set_and_nothing_else() -> None:
    config = SimpleNamespace(temperature=0.0, top_k=0, do_sample=False, num_beams=4)
    assert GenerationDefaults.of(config) == GenerationDefaults(temperature=0.0, top_k=0, do_sample=False)


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
