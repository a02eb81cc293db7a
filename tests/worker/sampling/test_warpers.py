"""Each warper gives every row what transformers' own warper gives it alone."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tests.worker.sampling.settings import WARPERS, batches, same_but_for_equals
from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.drawing import warp

THEIRS: dict[str, tuple[Any, float]] = {
    "temperature": (TemperatureLogitsWarper, 1.0),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, 0.0),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
}
"""By parameter: their warper, and the value that is off."""
# Typed as Any: transformers asks for a LongTensor, which no function of torch returns.
NO_IDS: Any = torch.zeros(1, 0, dtype=torch.long)


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", THEIRS)
def test_each_warper_equals_its_own_in_transformers_row_by_row(name: str, count: int) -> None:
    theirs, off = THEIRS[name]

    @given(batches(**{name: WARPERS[name]}))
    @settings(max_examples=count)
    def check(batch: tuple[Tensor, list[Sequence]]) -> None:
        logits, rows = batch
        ours = warp(logits.clone(), rows)
        for index, row in enumerate(rows):
            value, alone = getattr(row.parameters, name), logits[index : index + 1]
            expected = alone if value == off else theirs(value)(NO_IDS, alone)
            equal = same_but_for_equals if name == "top_p" else torch.equal
            assert equal(ours[index], expected[0])

    check()


def warped(logits: Tensor, **parameters: Any) -> Tensor:
    """Returns the logits [1, vocabulary] warped with some parameters."""
    return warp(logits.clone(), [Sequence(0, [0], SamplingParameters(1, **parameters))])


def test_top_p_cuts_equal_probabilities_where_its_warper_does() -> None:
    for vocabulary, percent in itertools.product(range(2, 65, 3), range(1, 100)):
        logits: Any = torch.zeros(1, vocabulary)
        theirs = TopPLogitsWarper(percent / 100)(NO_IDS, logits)
        assert same_but_for_equals(warped(logits, top_p=percent / 100), theirs)


def test_typical_p_may_leave_out_the_likeliest_token() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1]]).log()
    assert warped(logits, typical_p=0.2).isfinite().tolist() == [[False, True, False, False, False]]


def test_epsilon_leaves_the_likeliest_token_where_all_are_below() -> None:
    logits = torch.tensor([[0.0, 0.1, -0.1, 0.05]])
    assert warped(logits, epsilon_cutoff=0.9).isfinite().tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-40, 1e-300])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e30])
def test_a_tiny_temperature_leaves_the_likeliest_token_all_the_probability(temperature: float, scale: float) -> None:
    # Six steps of a temperature apart, or at least what float32 tells apart.
    logits = torch.tensor([[-3.0, 2.0, 1.0, 2.0 - 1e-6]]) * scale
    probabilities = warped(logits, temperature=temperature).softmax(dim=-1)
    if temperature < scale * 1e-9:
        assert probabilities.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert probabilities.isfinite().all()
    assert probabilities.argmax() == 1
