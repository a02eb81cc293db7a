"""Products with activations rounded to int16: more exact than bitsandbytes' kernel, and the same bits everywhere."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.runners.native import matrices
from tests.worker.runners.native.accuracy import errors, own_errors
from tests.worker.runners.native.matrices import Matrix, activations, between, four_bit
from tests.worker.runners.native.models import CASES, Case, bfloat16_model, exact_copy, quantize
from worker.loading.cpu_level import LEVELS
from worker.runners.native.library import Library, load
from worker.runners.native.linear import pack, take_over_linear_layers, takes_4bit
from worker.runners.native.runner import NativeRunner
from worker.runners.native.steps import int16_steps

ROWS = (*range(1, 21), 33)
SHAPES = ((32, 64), (96, 192), (160, 1024), (64, 1088), (32, 2304))
OUTLIERS = (1.0, 30.0, 1000.0)
GENERIC = LEVELS[-1]


def multiply(library: Library, layer: Any, x: Tensor) -> Tensor:
    return matrices.multiply(library, layer, x, "int16")


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


def with_whole_steps(matrix: Matrix, blocksize: int = 64) -> Matrix:
    """Returns a matrix whose weights are those that the codes stand for, not rounded to bfloat16."""
    code = matrix.layer.weight.quant_state.code
    table, (steps, step) = code.bfloat16().double(), int16_steps(code.float())
    scales = matrix.layer.weight.quant_state.absmax.T.double().repeat_interleave(blocksize, dim=1)
    nearest = ((matrix.weights / scales)[..., None] - table).abs().argmin(dim=-1)
    return Matrix(matrix.layer, steps.double()[nearest] * step * scales, matrix.unpacked)


def float32(rows: int, inputs: int, outlier: float = 1.0) -> Tensor:
    """Returns gaussian activations, one in a hundred of them larger."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, inputs, generator=generator)
    return torch.where(torch.rand(rows, inputs, generator=generator) < 0.01, x * outlier, x)


@pytest.mark.parametrize("outlier", OUTLIERS)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_they_are_several_times_as_exact_as_rounding_to_bfloat16(library: Library, kind: str, outlier: float) -> None:
    matrix = with_whole_steps(four_bit(96, 4096, kind=kind))
    for rows in (1, 2, 3, 8, 33):
        x = float32(rows, 4096, outlier)
        exact = matrix.exact(x)
        ours = error(multiply(library, matrix.layer, x), exact)
        assert 3 * ours < error(matrix.exact(x.bfloat16()), exact), f"{rows} rows: {ours:.2g}"


@pytest.mark.parametrize("outlier", OUTLIERS)
def test_of_the_weights_as_they_were_quantized_they_are_at_least_as_exact_as_bitsandbytes_kernel(
    library: Library, outlier: float
) -> None:
    """It rounds activations, codes and scales to bfloat16."""
    matrix = four_bit(96, 4096)
    state = matrix.unpacked.quant_state
    codes = matrix.unpacked.data.flatten().long()
    values = state.code.double()[torch.stack((codes >> 4, codes & 15), dim=1).flatten()].view(-1, 64)
    weights = (values * state.absmax.double()[:, None]).view(96, 4096)
    x = float32(9, 4096, outlier)
    exact = x.double() @ weights.T
    assert error(multiply(library, matrix.layer, x), exact) < 0.7 * error(matrix.exact(x.bfloat16()), exact)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    outlier=st.sampled_from(OUTLIERS),
    blocksize=st.sampled_from([32, 64, 128, 256]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 10)),
)
def test_any_product_is_exact_up_to_rounding(
    two_threads: Library, rows: int, outlier: float, blocksize: int, shape: tuple[int, int]
) -> None:
    outputs, inputs = 32 * shape[0], 256 * shape[1]
    matrix = with_whole_steps(four_bit(outputs, inputs, blocksize=blocksize, bias=True), blocksize)
    x = float32(rows, inputs, outlier)
    blocks = x.unflatten(-1, (-1, 64)).abs()
    # Half a step of each activation: of its block's largest, or of the sum of its block.
    step = torch.maximum(blocks.amax(-1) / 32000, blocks.sum(-1) / 262000).repeat_interleave(64, dim=1)
    tolerance = step.double() / 2 @ matrix.weights.T.abs() + matrix.tolerance(x) / 2**6
    assert ((multiply(two_threads, matrix.layer, x).double() - matrix.exact(x)).abs() <= tolerance).all()


@pytest.mark.parametrize("blocksize", [32, 64, 512, 1024])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_level_gives_the_same_bits(
    library: Library, tmp_path_factory: pytest.TempPathFactory, blocksize: int, dtype: torch.dtype
) -> None:
    plain = load(1, GENERIC, tmp_path_factory.getbasetemp() / "generic")
    layer = four_bit(96, 3072, blocksize=blocksize, bias=True).layer
    for rows in (1, 2, 3, 5, 8, 33):
        x = float32(rows, 3072, 30.0).to(dtype)
        assert torch.equal(multiply(library, layer, x), multiply(plain, layer, x)), f"{rows} rows"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_the_same_bits_in_any_company(library: Library, two_threads: Library, shape: tuple[int, int]) -> None:
    layer = four_bit(*shape).layer
    x = activations(33, shape[1])
    alone = torch.cat([multiply(library, layer, row[None].clone()) for row in x])
    for rows in ROWS:
        assert torch.equal(multiply(library, layer, x[:rows]), alone[:rows]), f"{rows} rows"
        assert torch.equal(multiply(two_threads, layer, x[:rows]), alone[:rows]), f"{rows} rows"


def test_an_outlier_spoils_its_own_block_alone(library: Library) -> None:
    layer = four_bit(64, 256).layer
    x = float32(2, 256)
    x[1] = x[0]
    x[1, 70] = 3e4
    layer.weight.quant_state.absmax.T[:, 1] = 0.0
    product = multiply(library, layer, x)
    assert torch.equal(product[0], product[1])


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_products_scale_with_their_activations(library: Library, scale: float) -> None:
    matrix = four_bit(32, 192)
    x = between(activations(3, 192).float() * scale, torch.nan)
    assert error(multiply(library, matrix.layer, x), matrix.exact(x)) < 0.005


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-45])
def test_rows_of_almost_nothing_are_almost_nothing(library: Library, value: float) -> None:
    layer = four_bit(32, 192).layer
    x = float32(3, 192)
    x[1] = value
    product = multiply(library, layer, x)
    assert (product[1].abs() < 1e-30).all()
    assert (product[[0, 2]] != 0).any(dim=1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row_and_shows(library: Library, value: float, dtype: torch.dtype) -> None:
    layer = four_bit(32, 192).layer
    x = float32(9, 192).to(dtype)
    before = multiply(library, layer, x)
    x[4, 100] = value
    product = multiply(library, layer, x)
    assert not product[4].isfinite().any()
    others = [row for row in range(9) if row != 4]
    assert torch.equal(product[others], before[others])


def test_all_inputs_as_large_as_they_can_be_do_not_overflow(library: Library) -> None:
    """All weights are the largest, and all activations the same: the sums come nearest to what 32 bits hold."""
    layer = matrices.quantized(torch.ones(32, 128))
    pack(layer)
    for x in (torch.full((2, 128), 3.0), torch.full((2, 128), -3.0)):
        assert torch.allclose(multiply(library, layer, x), x.sum(dim=1)[:, None], rtol=1e-4)


def test_a_float32_model_stays_in_float32(library: Library) -> None:
    matrix = with_whole_steps(four_bit(64, 192, bias=True))
    matrix.layer.bias = nn.Parameter(torch.full((64,), 0.1), requires_grad=False)
    take_over_linear_layers(nn.Sequential(matrix.layer), library, "int16")
    x = float32(6, 192).view(2, 3, 192)
    product = matrix.layer(x)
    assert (product.dtype, product.shape) == (torch.float32, (2, 3, 64))
    assert error(product.view(6, 64), matrix.exact(x.view(6, 192))) < 3e-4
    assert matrix.layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("case", [CASES[each] for each in (0, 3, 5, 14, 17, 20, 22, 23, 25, 26, 28, 31, 34)], ids=str)
def test_an_nf4_model_is_as_exact_as_its_own_forward_pass(case: Case, library: Library) -> None:
    model = quantize(bfloat16_model(case))
    exact = exact_copy(model)
    for layer in filter(takes_4bit, model.modules()):
        pack(layer)
    assert errors(model, NativeRunner(model, library, "int16"), exact).are_like(
        own_errors(model, exact), choices=case.has_choices
    )
