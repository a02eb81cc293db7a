"""The sizes of a model that is not loaded are those that it has once it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.worker.families import FAMILIES, tiny_model
from tests.worker.runners.cuda.matrices import quantized
from tests.worker.tiny_models import tiny_llama
from worker.domain.config import Config, Quantization
from worker.loading.probe import expected_layouts, layer_layouts
from worker.loading.quantization.quantization import expected_size, loaded_size, skeleton
from worker.memory.layout import Layout, bytes_per_row, bytes_per_token


def quantize(model: Any, *, is_nested: bool) -> None:
    """Puts 4-bit layers in the place of a body's linear ones, as bitsandbytes makes them on a GPU."""
    body = model.model
    for name, layer in list(body.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            dtype = layer.weight.dtype
            body.set_submodule(name, quantized(layer.out_features, layer.in_features, is_nested=is_nested, dtype=dtype))


@pytest.mark.parametrize("is_nested", [True, False])
def test_a_model_has_the_sizes_that_its_config_lets_expect(*, is_nested: bool) -> None:
    # As wide as it takes for scales to be whole blocks of their own.
    model: Any = tiny_llama(hidden_size=256, intermediate_size=512).bfloat16()
    expected = skeleton(model.config).bfloat16()
    layouts = layer_layouts(model)
    quantize(model, is_nested=is_nested)
    found = expected_size(Config(double_quantization=is_nested), expected, layouts, 128)
    assert found == loaded_size(model, layouts, 128)


@pytest.mark.parametrize(("quantization", "share"), [("none", 1.0), ("int8", 0.5), ("nf4", 0.25)])
def test_a_matrix_takes_what_its_quantization_says(quantization: Quantization, share: float) -> None:
    model: Any = skeleton(tiny_llama().config).bfloat16()
    plain = sum(each.numel() for each in model.model.layers.parameters() if each.dim() == 2)
    kept = 2 * (sum(each.numel() for each in model.parameters()) - plain)
    size = expected_size(Config(quantization=quantization), model, [], 128)
    assert size.weights == kept + int(share * 2 * plain)
    assert size.quantized == (0 if quantization == "none" else plain)


def test_a_quantized_checkpoint_is_taken_at_its_word() -> None:
    config = tiny_llama().config
    asked = expected_size(Config(double_quantization=False), skeleton(config).bfloat16(), [], 128)
    config.quantization_config = {
        "load_in_4bit": True,
        "bnb_4bit_use_double_quant": False,
        "quant_method": "bitsandbytes",
    }
    stated: Any = skeleton(config).bfloat16()
    assert expected_size(Config(quantization="int8"), stated, [], 128) == asked


@pytest.mark.parametrize("wanted", FAMILIES[::8], ids=lambda wanted: wanted.name)
def test_layers_keep_what_was_expected(wanted: Any) -> None:
    model = tiny_model(wanted).bfloat16()
    expected = expected_layouts(skeleton(model.config).bfloat16().eval())
    assert [_bytes(each) for each in expected] == [_bytes(each) for each in layer_layouts(model)]


def _bytes(layout: Layout) -> tuple[int, int]:
    return bytes_per_token([layout]), bytes_per_row([layout])


def test_a_context_is_no_part_of_a_models_weights() -> None:
    model: Any = skeleton(tiny_llama().config)
    short, long = (expected_size(Config(), model, [], context) for context in (64, 128))
    assert replace(short, context=128) == long
