"""How the fastest way to multiply is chosen: a fake clock, and real products."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.worker.runners.cuda.matrices import quantized
from worker.runners.cuda.llama.matrix import FourBitMatrix
from worker.runners.cuda.llama.projection import LIBRARY, FourBitProjection, Product, choose, project

DTYPE = torch.bfloat16


def projections(count: int = 3) -> list[FourBitProjection]:
    found = [project([quantized(64, 128, dtype=DTYPE), quantized(32, 128, dtype=DTYPE)]) for _ in range(count)]
    assert all(isinstance(each, FourBitProjection) for each in found)
    return [each for each in found if isinstance(each, FourBitProjection)]


class Clock:
    """Says that work took as long as the way that ran last was given."""

    def __init__(self, times: dict[str, float]) -> None:
        self.times = times
        self.last = LIBRARY

    def __call__(self, work: Callable[[], object]) -> float:
        self.last = LIBRARY
        work()
        return self.times[self.last]

    def ways(self, **factors: float) -> Callable[[FourBitMatrix, int], dict[str, Product]]:
        """Returns ways that note their names, and whose results are so many times the right ones."""

        def more_ways(matrix: FourBitMatrix, rows: int) -> dict[str, Product]:
            return {name: self._way(name, matrix, factor) for name, factor in factors.items()}

        return more_ways

    def _way(self, name: str, matrix: FourBitMatrix, factor: float) -> Product:
        def multiply(given: Tensor) -> Tensor:
            self.last = name
            return factor * given @ matrix.dequantize(given.dtype).T

        return multiply


def test_the_fastest_way_that_is_right_is_taken_for_all_matrices_of_a_shape(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock({LIBRARY: 3.0, "slow": 4.0, "fast": 2.0, "wrong": 1.0})
    group = projections()
    ways = clock.ways(slow=1.0, fast=1.0, wrong=1.2)
    choose(group, [1, 8], dtype=DTYPE, timer=clock, more_ways=ways, copy_bytes=0)
    for projection in group:
        for rows in (1, 8):
            projection(torch.randn(rows, 128).to(DTYPE))
            assert clock.last == "fast"
    assert "wrong computes" in caplog.text


def test_a_way_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def more_ways(matrix: FourBitMatrix, rows: int) -> dict[str, Product]:
        def multiply(given: Tensor) -> Tensor:
            raise RuntimeError("out of resources: shared memory")

        return {"large": multiply}

    group = projections()
    choose(group, [8], dtype=DTYPE, timer=lambda work: 1.0, more_ways=more_ways, copy_bytes=0)
    given = torch.randn(8, 128).to(DTYPE)
    assert all(torch.equal(projection(given), projection.by_library(given)) for projection in group)
    assert "large cannot multiply" in caplog.text


@pytest.mark.parametrize(("copy_bytes", "is_kept"), [(3 * 96 * 128 * 2, True), (3 * 96 * 128 * 2 - 1, False)])
def test_copies_are_made_within_their_budget_and_are_bit_equal(copy_bytes: int, *, is_kept: bool) -> None:
    times = iter([2.0, 1.0])
    group = projections()
    choose(
        group,
        [8],
        dtype=DTYPE,
        timer=lambda work: next(times),
        more_ways=lambda matrix, rows: {},
        copy_bytes=copy_bytes,
    )
    given = torch.randn(8, 128).to(DTYPE)
    for projection in group:
        assert (projection.resident is not None) == is_kept
        plain = nn.functional.linear(given, projection.matrix.dequantize(DTYPE))
        assert torch.equal(projection(given), plain)


def test_copies_that_nobody_takes_are_freed() -> None:
    times = iter([1.0, 2.0])
    group = projections()
    choose(
        group, [8], dtype=DTYPE, timer=lambda work: next(times), more_ways=lambda matrix, rows: {}, copy_bytes=1 << 30
    )
    assert all(projection.resident is None for projection in group)


@pytest.mark.parametrize("has_bias", [False, True])
def test_layers_that_are_not_quantized_are_one_product_and_share_its_memory(*, has_bias: bool) -> None:
    layers = [nn.Linear(16, outputs, bias=has_bias) for outputs in (8, 4)]
    given = torch.randn(3, 16)
    expected = torch.cat([layer(given) for layer in layers], dim=-1)
    torch.testing.assert_close(project(layers)(given), expected)
    first, second = (layer.weight.untyped_storage().data_ptr() for layer in layers)
    assert first == second


def test_layers_that_cannot_be_one_product_are_multiplied_one_by_one() -> None:
    layers = [nn.Linear(16, 8, bias=True), nn.Linear(16, 4, bias=False)]
    given = torch.randn(3, 16)
    expected = torch.cat([layer(given) for layer in layers], dim=-1)
    torch.testing.assert_close(project(layers)(given), expected)
