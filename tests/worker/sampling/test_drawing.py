"""What is drawn follows the distribution that the warpers leave, by the row's own random numbers."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import worker.sampling.drawing
from tests.examples import examples
from tests.worker.sampling.settings import PROCESSORS, WARPERS, batches
from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.drawing import warp
from worker.sampling.sampler import process, sample

# The 99.9 % point of chi-square with 7 degrees of freedom.
CHI_SQUARE_7 = 24.32
JUST_BELOW_ONE = 1 - 2.0**-53


@examples(given(batches(**PROCESSORS, **WARPERS)), few=20, many=100)
def test_a_drawn_token_is_one_that_processors_and_warpers_left(batch: tuple[Tensor, list[Sequence]]) -> None:
    logits, rows = batch
    processed = process(logits, rows)
    left = warp(processed.clone(), rows)
    for index, token in enumerate(sample(logits, rows).tokens):
        if rows[index].parameters.do_sample and processed[index].amax() > float("-inf"):
            assert left[index, token] > float("-inf")


def drawn_counts(logits: Tensor, rows: list[Sequence]) -> Any:
    return np.bincount(sample(logits.expand(len(rows), -1), rows).tokens, minlength=logits.shape[-1])


def by_seed(count: int, parameters: dict[str, Any]) -> list[Sequence]:
    return [Sequence(0, [0], SamplingParameters(1, do_sample=True, seed=seed, **parameters)) for seed in range(count)]


def by_index(count: int, parameters: dict[str, Any]) -> list[Sequence]:
    one = SamplingParameters(1, do_sample=True, seed=7, **parameters)
    return [Sequence(0, [0], one, output=[0] * index) for index in range(count)]


@pytest.mark.parametrize("rows_of", [by_seed, by_index])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_draws_follow_the_distribution(
    rows_of: Callable[[int, dict[str, Any]], list[Sequence]], temperature: float
) -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5, 2.0, -0.5, 1.5, 0.2]])
    rows = rows_of(4000, {"temperature": temperature})
    wanted = 4000 * (logits[0] / temperature).double().softmax(dim=-1).numpy()
    assert ((drawn_counts(logits, rows) - wanted) ** 2 / wanted).sum() < CHI_SQUARE_7


def test_draws_follow_the_distribution_that_top_k_leaves() -> None:
    logits = torch.arange(12.0)[None] / 4
    counts = drawn_counts(logits, by_seed(4000, {"top_k": 8}))
    wanted = 4000 * logits[0, 4:].double().softmax(dim=-1).numpy()
    assert counts[:4].tolist() == [0] * 4
    assert ((counts[4:] - wanted) ** 2 / wanted).sum() < CHI_SQUARE_7


def draw_at(number: float, logits: Tensor, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any]) -> list[int]:
    """Returns the tokens of rows that all draw the given number in [0, 1)."""
    monkeypatch.setattr(worker.sampling.drawing, "uniforms", lambda seeds, _: np.full(len(seeds), number))
    return sample(logits, by_seed(len(logits), parameters)).tokens


def test_the_smallest_number_draws_the_first_token_with_a_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[0.0, 0.0, 5.0, 5.0], [9.0, 0.0, 5.0, 5.0]])
    assert draw_at(0.0, logits, monkeypatch, {"top_k": 2}) == [2, 0]


def test_the_largest_number_never_draws_a_token_without_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(500, 40, generator=torch.Generator().manual_seed(3))
    logits[:, 30:] = -200.0
    assert max(draw_at(JUST_BELOW_ONE, logits, monkeypatch, {})) < 30


def test_a_large_vocabulary_loses_nothing_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = 50_000
    logits = torch.zeros(1, vocabulary)
    for token, part in itertools.product((0, 31_000, vocabulary - 1), (0.001, 0.999)):
        assert draw_at((token + part) / vocabulary, logits, monkeypatch, {}) == [token]


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-40, 1e-300])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(4)) * 20
    assert sample(logits, by_seed(20, {"temperature": temperature})).tokens == logits.argmax(dim=-1).tolist()
