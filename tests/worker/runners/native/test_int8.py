"""Products with activations that are rounded to int8: how far off they are, for whom, and where they are refused."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tests.worker.runners.native import matrices
from tests.worker.runners.native.accuracy import Text, run, texts
from tests.worker.runners.native.matrices import Matrix, activations, between, four_bit, quantized
from tests.worker.runners.native.models import CASES, bfloat16_model, exact_copy, quantize
from tutor.compose import held_out
from worker.assembly import assemble
from worker.domain.config import TUTOR, Config
from worker.domain.sequence import Root, SamplingParameters, Sequence
from worker.loading import loading
from worker.loading.cpu_level import Arithmetic, CpuLevel
from worker.runners.native import assembly as native
from worker.runners.native.assembly import NativeCode, native_code, native_runner
from worker.runners.native.description import Description
from worker.runners.native.library import Library, NativeError
from worker.runners.native.linear import rounds_int8, take_over_linear_layers
from worker.runners.native.runner import NativeRunner
from worker.runners.native.steps import int8_steps

ROWS = (*range(1, 21), 33)
SHAPES = ((32, 64), (96, 192), (64, 1088), (32, 2304))
"""Outputs and inputs: one block; three blocks; more than a panel of codes and more than two, with a rest."""
TOLERANCE = 0.015
BLOCK = 64


@pytest.fixture(autouse=True)
def _can_multiply(level: CpuLevel) -> None:
    if "int8" not in level.arithmetics():
        pytest.skip(f"{level.name} has no products with int8 on this CPU")


def multiply(library: Library, layer: Any, x: Tensor) -> Tensor:
    return matrices.multiply(library, layer, x, "int8")


def given(model: Any) -> list[Text]:
    return texts(model.config.vocab_size)[:4]


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


def rounded(x: Tensor) -> Tensor:
    """Returns what is left of activations in int8, float64."""
    blocks = x.double().unflatten(-1, (-1, BLOCK))
    steps = blocks.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127
    left: Tensor = ((blocks / steps).round() * steps).flatten(-2)
    return left


def with_levels(matrix: Matrix, blocksize: int = BLOCK) -> Matrix:
    """Returns a matrix whose weights are what int8 products take them for."""
    code = matrix.layer.weight.quant_state.code.float()
    numbers, step = int8_steps(code)
    scales = matrix.layer.weight.quant_state.absmax.T.double().repeat_interleave(blocksize, dim=1)
    nearest = ((matrix.weights / scales)[..., None] - code.double()).abs().argmin(dim=-1)
    return replace(matrix, weights=(numbers.double() - 128)[nearest] * step * scales)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_off_by_little_more_than_a_hundredth(library: Library, shape: tuple[int, int], kind: str) -> None:
    matrix = four_bit(*shape, kind=kind, bias=True)
    for rows in ROWS:
        x = activations(rows, shape[1])
        assert 0.003 < error(multiply(library, matrix.layer, x), matrix.exact(x)) < TOLERANCE, f"{rows} rows"


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("blocksize", [64, 128, 1024])
def test_nothing_but_the_two_roundings_makes_them_inexact(library: Library, blocksize: int, kind: str) -> None:
    matrix = with_levels(four_bit(96, 3072, kind=kind, blocksize=blocksize, double=True), blocksize)
    for rows in (1, 2, 3, 6, 7, 20):
        x = activations(rows, 3072)
        # 2^-9: the result is rounded to bfloat16. Ties of activations may be rounded to either side.
        assert error(multiply(library, matrix.layer, x), matrix.exact(rounded(x))) < 2**-8, f"{rows} rows"


def test_a_rows_product_does_not_depend_on_its_neighbours(library: Library) -> None:
    layer = four_bit(64, 1088).layer
    x = activations(33, 1088)
    alone = torch.cat([multiply(library, layer, row[None].clone()) for row in x])
    for rows in ROWS:
        assert torch.equal(multiply(library, layer, x[:rows]), alone[:rows]), f"{rows} rows"


def test_threads_share_a_product_and_change_nothing(library: Library, two_threads: Library) -> None:
    layer = four_bit(160, 1088).layer
    for rows in (1, 3, 8, 33):
        x = activations(rows, 1088)
        assert torch.equal(multiply(two_threads, layer, x), multiply(library, layer, x))


def test_an_outlier_spoils_its_own_block_alone(library: Library) -> None:
    matrix = four_bit(64, 256)
    x = activations(4, 256)
    x[1, 70] = 3000.0
    x[2, 64:128] = 0.0
    weights = matrix.weights.clone()
    matrix.layer.weight.quant_state.absmax.T[:, 1] = 0.0
    weights[:, BLOCK : 2 * BLOCK] = 0.0
    ours, exact = multiply(library, matrix.layer, x), replace(matrix, weights=weights).exact(x)
    for row in range(4):
        assert error(ours[row], exact[row]) < TOLERANCE


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_products_scale_with_their_activations(library: Library, scale: float) -> None:
    matrix = four_bit(32, 192)
    x = between(activations(3, 192).float() * scale, torch.nan)
    assert error(multiply(library, matrix.layer, x), matrix.exact(x)) < TOLERANCE


def test_zeros_give_zeros(library: Library) -> None:
    layer = four_bit(32, 192).layer
    x = activations(3, 192)
    x[1] = 0.0
    product = multiply(library, layer, x)
    assert (product[1] == 0).all()
    assert (product[[0, 2]] != 0).any(dim=1).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row_and_shows(library: Library, value: float) -> None:
    layer = four_bit(32, 192).layer
    x = activations(9, 192)
    before = multiply(library, layer, x)
    x[4, 100] = value
    product = multiply(library, layer, x)
    assert not product[4].isfinite().any()
    others = [row for row in range(9) if row != 4]
    assert torch.equal(product[others], before[others])


def test_levels_are_the_nearest_whole_steps() -> None:
    values = quantized(torch.randn(32, 64)).weight.quant_state.code.float()
    numbers, step = int8_steps(values)
    assert int(numbers.min()) == 256 - int(numbers.max())
    assert (numbers[values == 0] == 128).all()
    assert ((numbers.float() - 128) * step - values).abs().max() <= step / 2 + 1e-6
    assert 96 <= 1 / step <= 127


def test_layers_in_other_blocks_stay_exact(library: Library) -> None:
    other = four_bit(64, 192, blocksize=32)
    assert not rounds_int8(other.layer)
    x = activations(5, 192)
    assert ((multiply(library, other.layer, x).double() - other.exact(x)).abs() <= other.tolerance(x)).all()


@pytest.mark.parametrize("case", [CASES[0], CASES[5], CASES[13]], ids=str)
def test_the_logits_of_a_whole_model_are_near_the_exact_ones(case: Any, library: Library, two_threads: Library) -> None:
    model = quantize(bfloat16_model(case))
    exact = exact_copy(model)
    take_over_linear_layers(model, library)
    wanted = torch.cat([text.logits(exact) for text in given(model)])
    ways: tuple[tuple[Arithmetic, Library], ...] = (("exact", library), ("int8", library), ("int8", two_threads))
    off = {
        (way, chosen.threads): error(run(model, NativeRunner(model, chosen, way), given(model))[0], wanted)
        for way, chosen in ways
    }
    assert off["exact", 1] < off["int8", 1] < 3 * off["exact", 1]
    assert off["int8", 2] == pytest.approx(off["int8", 1], rel=1e-3)


def test_layers_that_are_not_quantized_mix_with_those_that_are(library: Library) -> None:
    model = bfloat16_model(CASES[0])
    for layer in model.model.layers:
        layer.self_attn.v_proj = quantized(layer.self_attn.v_proj.weight.float())
        layer.mlp.up_proj = quantized(layer.mlp.up_proj.weight.float())
    exact = exact_copy(model)
    take_over_linear_layers(model, library)
    wanted = torch.cat([text.logits(exact) for text in given(model)])
    assert error(run(model, NativeRunner(model, library, "int8"), given(model))[0], wanted) < 0.15


def tutors_answers(code: NativeCode) -> list[list[int]]:
    """Returns the greedy tokens of the bundled model for questions that it was not trained on."""
    loaded = loading.load(Config(), code)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TUTOR)
    parameters = SamplingParameters(max_new_tokens=12, eos_token_ids=frozenset(loaded.facts.eos_token_ids))
    prompts = [example.prompt for example in held_out(seed=3, count_per_task=3) if not example.chat]
    asked = [Sequence(number, tokenizer(prompt).input_ids, parameters) for number, prompt in enumerate(prompts)]
    engine = assemble(loaded, Config(max_rows=8))
    for sequence in asked:
        engine.scheduler.submit(Root(sequence.prompt, [sequence]))
    while engine.scheduler.has_work:
        engine.step()
    return [sequence.output for sequence in asked]


def test_the_bundled_model_answers_nearly_the_same(library: Library, level: CpuLevel) -> None:
    exact, int8 = (tutors_answers(NativeCode(level, each, library)) for each in level.arithmetics()[::2])
    same = sum(a == b for a, b in zip(exact, int8, strict=True))
    assert len(exact) >= 12
    assert same >= 0.9 * len(exact)


def test_a_taken_over_layer_rounds_as_the_whole_model_does(library: Library) -> None:
    matrix = four_bit(64, 192)
    take_over_linear_layers(nn.Sequential(matrix.layer), library, "int8")
    x = activations(5, 192)
    assert torch.equal(matrix.layer(x), multiply(library, matrix.layer, x))


def test_the_worker_says_that_results_are_inexact(
    library: Library, level: CpuLevel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="worker.runners.native")
    runner = native_runner(quantize(bfloat16_model(CASES[0])), NativeCode(level, "int8", library))
    assert isinstance(runner, NativeRunner)
    assert isinstance(runner.description, Description)
    assert all(layer.query.arithmetic == layer.down.arithmetic == 2 for layer in runner.description._layers)
    assert "21 of 21 4-bit layers are rounded to int8: results are inexact" in caplog.text


def test_a_model_without_4bit_layers_is_refused(library: Library, level: CpuLevel) -> None:
    with pytest.raises(ValueError, match="--activations int8: the model has no layer of 4-bit weights"):
        native_runner(bfloat16_model(CASES[0]), NativeCode(level, "int8", library))


def test_without_a_compiler_the_worker_does_not_start(level: CpuLevel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(threads: int, level: CpuLevel) -> Library:
        raise NativeError("there is no C compiler")

    monkeypatch.setattr(native, "load", fail)
    with pytest.raises(ValueError, match="--activations int8: the CPU's kernels cannot be compiled: there is no C"):
        native_code(Config(cpu_level=level.name, activations="int8"))
