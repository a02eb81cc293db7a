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


@pytest.mark.parametrize("has_bias", [False, True])
def test_quantized_scales_stay_so_and_each_part_keeps_its_own_mean(*, has_bias: bool) -> None:
    # Of 128 inputs each: 128 outputs have 256 scales, a block of them.
    layers = [quantized(outputs, 128, is_nested=True, has_bias=has_bias) for outputs in (128, 256, 128)]
    for factor, layer in enumerate(layers, start=1):
        layer.weight.quant_state.offset *= factor  # means that differ
    parts = [weight(layer) for layer in layers]
    kept = sum(layer.weight.quant_state.absmax.nbytes for layer in layers)
    given = torch.randn(5, 128)
    expected = torch.cat(
        [given @ part.T + (layer.bias if has_bias else 0) for layer, part in zip(layers, parts, strict=True)], 1
    )
    with torch.inference_mode():
        matrix = fuse(layers)
        assert matrix.nested is not None
        assert (matrix.absmax.dtype, matrix.absmax.nbytes) == (torch.uint8, kept)
        assert torch.equal(matrix.dequantize(torch.float32), torch.cat(parts))
        torch.testing.assert_close(matrix.multiply(given), expected)
    for layer, part in zip(layers, parts, strict=True):
        assert layer.weight.quant_state.nested
        assert torch.equal(weight(layer), part)
        coarse = layer.weight.quant_state.state2.absmax
        assert coarse.untyped_storage().data_ptr() == matrix.nested.absmax.untyped_storage().data_ptr()


def test_scales_whose_blocks_reach_into_the_next_layer_are_taken_out_of_them() -> None:
    matrix = fuse([quantized(64, 128, is_nested=True), quantized(128, 128, is_nested=True)])
    assert matrix.nested is None
    assert matrix.absmax.dtype == torch.float32


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
