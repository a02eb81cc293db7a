"""Products in C are exact up to rounding, and touch nothing but their own memory."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.runners.native.matrices import Matrix, activations, dense, four_bit, multiply
from worker.loading.cpu import cpu_has_4bit_kernel
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.runners.native.library import Library
from worker.runners.native.linear import NativeLinear, take_over_linear_layers

ROWS = (*range(1, 21), 33, 64)
SHAPES = ((32, 64), (96, 192), (160, 1024), (64, 1088), (32, 2304))
"""Outputs and inputs: one block; an odd number of tiles; a whole panel; one panel and two, with a rest."""


def assert_exact(library: Library, matrix: Matrix, rows: int) -> None:
    x = activations(rows, matrix.layer.in_features)
    difference = (multiply(library, matrix.layer, x).double() - matrix.exact(x)).abs()
    assert (difference <= matrix.tolerance(x)).all(), f"{rows} rows are off by {difference.max():.3g}"


def bitsandbytes(matrix: Matrix, x: Tensor) -> Tensor:
    """Returns its kernel's product; on a CPU for which it has none, that of the weights as it dequantizes them."""
    weight, state = matrix.layer.weight.data, matrix.layer.weight.quant_state
    product: Tensor
    if cpu_has_4bit_kernel():
        product = torch.ops.bitsandbytes.gemv_4bit(x, weight, state.shape, state.absmax, state.code, state.blocksize)
    else:
        unpacked = matrix.unpacked
        weights = bnb.functional.dequantize_4bit(unpacked.data, copy.deepcopy(unpacked.quant_state))
        product = nn.functional.linear(x, weights.to(torch.bfloat16))
    return product


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_4bit_products_are_exact_up_to_rounding(library: Library, shape: tuple[int, int], kind: str) -> None:
    matrix = four_bit(*shape, kind=kind)
    for rows in ROWS:
        assert_exact(library, matrix, rows)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("blocksize", [64, 128, 256])
@pytest.mark.parametrize("double", [False, True])
def test_4bit_products_differ_from_those_of_bitsandbytes_by_rounding(
    library: Library, kind: str, blocksize: int, *, double: bool
) -> None:
    matrix = four_bit(96, 1536, kind=kind, blocksize=blocksize, double=double)
    for rows in (1, 4, 9, 33):
        x = activations(rows, 1536)
        theirs, exact = bitsandbytes(matrix, x).double(), matrix.exact(x)
        ours = multiply(library, matrix.layer, x).double()
        assert (ours - exact).square().mean() <= 1.01 * (theirs - exact).square().mean()
        assert (ours - theirs).abs().max() <= 2**-6 * exact.abs().max()


@pytest.mark.parametrize("blocksize", [512, 1024])
def test_blocks_may_be_as_long_as_a_panel(library: Library, blocksize: int) -> None:
    for rows in (1, 9):
        assert_exact(library, four_bit(64, 3072, blocksize=blocksize, double=True), rows)


@pytest.mark.parametrize("outputs", [1, 3, 31, 64, 172])
@pytest.mark.parametrize("inputs", [1, 44, 64, 100])
def test_dense_products_of_any_size_are_exact_up_to_rounding(library: Library, outputs: int, inputs: int) -> None:
    matrix = dense(outputs, inputs, bias=outputs % 2 == 1)
    for rows in ROWS:
        assert_exact(library, matrix, rows)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    matrix=st.builds(
        four_bit,
        outputs=st.integers(1, 5).map(lambda tiles: 32 * tiles),
        inputs=st.integers(1, 10).map(lambda blocks: 256 * blocks),
        blocksize=st.sampled_from([64, 128, 256]),
        kind=st.sampled_from(["nf4", "fp4"]),
        double=st.booleans(),
        bias=st.booleans(),
    ),
)
def test_any_4bit_layer_is_exact_up_to_rounding(two_threads: Library, rows: int, matrix: Matrix) -> None:
    assert_exact(two_threads, matrix, rows)


@pytest.mark.parametrize("matrix", [four_bit(160, 1088, bias=True), dense(172, 100)], ids=["4-bit", "dense"])
def test_the_number_of_threads_changes_no_bit(library: Library, matrix: Matrix) -> None:
    for rows in (1, 7, 20):
        x = activations(rows, matrix.layer.in_features)
        alone = multiply(library, matrix.layer, x)
        for threads in (2, 3, 40):
            assert torch.equal(multiply(Library(library.path, threads), matrix.layer, x), alone)


@pytest.mark.parametrize("matrix", [four_bit(64, 1088), dense(35, 44)], ids=["4-bit", "dense"])
def test_a_row_that_is_not_finite_spoils_no_other(library: Library, matrix: Matrix) -> None:
    for rows in (3, 8, 13):
        x = activations(rows, matrix.layer.in_features)
        before = multiply(library, matrix.layer, x)
        x[1, 5] = torch.nan
        after = multiply(library, matrix.layer, x)
        others = [row for row in range(rows) if row != 1]
        assert after[1].isnan().all()
        assert torch.equal(after[others], before[others])


def test_no_rows_are_no_product(library: Library) -> None:
    for matrix in (four_bit(32, 64), dense(3, 44)):
        assert multiply(library, matrix.layer, activations(0, matrix.layer.in_features)).shape[0] == 0


def test_other_inputs_than_a_layers_are_refused(library: Library) -> None:
    layer = four_bit(32, 64).layer
    take_over_linear_layers(nn.Sequential(layer), library)
    with pytest.raises(ValueError, match="the layer takes 64 inputs, not 128"):
        layer(activations(3, 128))


def test_a_row_is_the_same_in_any_company(library: Library) -> None:
    """Within one way to multiply, rows are independent of their number."""
    matrix = dense(64, 96)
    x = activations(20, 96)
    together = multiply(library, matrix.layer, x)
    for row in range(20):
        assert torch.equal(multiply(library, matrix.layer, x[row : row + 1].contiguous())[0], together[row])


def test_biases_in_float32_are_taken_as_bfloat16(library: Library) -> None:
    layer = four_bit(32, 64).layer
    layer.bias = torch.nn.Parameter(torch.full((32,), 0.1))
    structure = NativeLinear(layer)
    x, product = activations(1, 64).zero_(), torch.zeros(1, 32, dtype=torch.bfloat16)
    library.linear(structure.structure, x.data_ptr(), 1, product.data_ptr())
    assert torch.equal(product, torch.full((1, 32), 0.1, dtype=torch.bfloat16))
