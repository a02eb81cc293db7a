"""Fused 4-bit matrices are the same matrices, and the layers that they were made of go on as before."""

from typing import Any

import pytest
import torch

from tests.worker.runners.cuda.matrices import quantized
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.runners.cuda.llama.matrix import can_fuse, fuse


def weight(layer: Any) -> torch.Tensor:
    """Returns what bitsandbytes makes of a layer's codes."""
    dequantized: torch.Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return dequantized


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_matrix_is_bit_equal_to_its_parts(kind: str, dtype: torch.dtype, *, is_nested: bool) -> None:
    layers = [
        quantized(outputs, 128, kind=kind, is_nested=is_nested, has_bias=True, dtype=dtype) for outputs in (64, 32, 96)
    ]
    parts = [weight(layer) for layer in layers]
    with torch.inference_mode():
        matrix = fuse(layers)
    assert torch.equal(matrix.dequantize(dtype), torch.cat(parts))
    assert matrix.bias is not None
    assert torch.equal(matrix.bias, torch.cat([layer.bias for layer in layers]))
    assert all(torch.equal(weight(layer), part) for layer, part in zip(layers, parts, strict=True))


def test_the_layers_share_the_memory_of_the_fused_matrix() -> None:
    layers = [quantized(64, 64), quantized(32, 64)]
    matrix = fuse(layers)
    for layer in layers:
        assert layer.weight.data.untyped_storage().data_ptr() == matrix.packed.untyped_storage().data_ptr()
        scales = layer.weight.quant_state.absmax
        assert scales.untyped_storage().data_ptr() == matrix.absmax.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "layers",
    [
        [quantized(64, 96)],
        [quantized(64, 64), quantized(64, 128)],
        [quantized(64, 64), quantized(64, 64, kind="fp4")],
        [quantized(64, 64), quantized(64, 64, has_bias=True)],
        [quantized(64, 64), torch.nn.Linear(64, 64)],
    ],
    ids=["a block over two rows", "other inputs", "other codes", "one bias", "one not quantized"],
)
def test_what_is_not_alike_is_not_fused(layers: list[Any]) -> None:
    assert not can_fuse(layers)


def test_what_is_alike_is_fused() -> None:
    assert can_fuse([quantized(64, 64), quantized(32, 64, is_nested=True)])
