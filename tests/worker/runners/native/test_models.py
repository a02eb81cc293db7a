"""Whole models in C: errors like those of transformers' own forward pass in bfloat16, whatever the engine does."""

from typing import Any

import pytest
import torch

from tests.worker.runners.native.accuracy import Errors, errors, own_errors, run, texts
from tests.worker.runners.native.models import CASES, Case, bfloat16_model, exact_copy, quantize
from tests.worker.runners.native.planted_mistakes import MISTAKES, Mistake
from worker.runners.model_runner import ModelRunner
from worker.runners.native.library import Library
from worker.runners.native.linear import pack, takes_4bit
from worker.runners.native.obstacles import obstacle
from worker.runners.native.runner import NativeRunner

CPU = torch.device("cpu")


def native(model: Any, library: Library) -> NativeRunner:
    """Returns a runner, as `native_runner` does, but leaves the model's own forward pass as it is."""
    for layer in filter(takes_4bit, model.modules()):
        pack(layer)
    assert obstacle(model) == ""
    return NativeRunner(model, library)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bfloat16_model_is_as_exact_as_its_own_forward_pass(case: Case, library: Library) -> None:
    model = bfloat16_model(case)
    exact = exact_copy(model)
    assert errors(model, native(model, library), exact).are_like(own_errors(model, exact), choices=case.has_choices)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_nf4_model_is_as_exact_as_its_own_forward_pass(case: Case, library: Library) -> None:
    model = quantize(bfloat16_model(case))
    exact = exact_copy(model)
    assert errors(model, native(model, library), exact).are_like(own_errors(model, exact), choices=case.has_choices)


def test_an_fp4_model_is_as_exact_as_transformers_in_the_same_engine(library: Library) -> None:
    model = quantize(bfloat16_model(CASES[0]), kind="fp4")
    exact = exact_copy(model)
    theirs = errors(model, ModelRunner.for_model(model, CPU), exact)
    assert errors(model, native(model, library), exact).are_like(theirs)


def test_the_compared_run_goes_through_everything(library: Library) -> None:
    model = bfloat16_model(CASES[0])
    _, events = run(model, native(model, library), texts(model.config.vocab_size))
    assert events.padded_groups > 0
    assert events.chunked_groups > 0
    assert events.joins > 0
    assert events.departures > 0
    assert events.slides > 0
    assert events.reviews > 0


@pytest.mark.parametrize("case", [CASES[each] for each in (0, 25, 31, 32)], ids=str)
def test_two_threads_give_the_same_logits(case: Case, library: Library, two_threads: Library) -> None:
    model = quantize(bfloat16_model(case))
    alone, _ = run(model, native(model, library), texts(model.config.vocab_size)[1:6])
    together, _ = run(model, native(model, two_threads), texts(model.config.vocab_size)[1:6])
    assert torch.equal(alone, together)


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_planted_mistake_is_noticed(mistake: Mistake, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("", mistake.family, mistake.settings)
    model = bfloat16_model(case)
    exact = exact_copy(model)
    monkeypatch.setattr(mistake.owner, mistake.attribute, mistake.replacement)
    assert not errors(model, native(model, library), exact).are_like(own_errors(model, exact), choices=case.has_choices)


def test_logits_that_are_not_finite_are_like_no_others() -> None:
    good = Errors.of(torch.ones(2, 3) + 0.01, torch.ones(2, 3))
    bad = torch.ones(2, 3)
    bad[1, 2] = torch.nan
    assert good.are_like(good)
    assert not Errors.of(bad, torch.ones(2, 3)).are_like(good)
