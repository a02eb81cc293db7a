"""Sampling: every row gets what transformers' own processors give it alone, and draws what its distribution says."""

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import worker.sampling
from tests.worker.tiny_models import tiny_llama
from worker.sampling import keep_min_p, keep_top_k, keep_top_p, penalize_repetition, sample, warp
from worker.sequence import SamplingParameters, Sequence

# The 99.9 % point of chi-square with 7 degrees of freedom.
CHI_SQUARE_7 = 24.32
JUST_BELOW_ONE = 1 - 2.0**-53
# What follows is typed as Any where transformers asks for a LongTensor, which no function of torch returns.
NO_IDS: Any = torch.zeros(1, 0, dtype=torch.long)

PARAMETERS = st.builds(
    SamplingParameters,
    max_new_tokens=st.just(99),
    do_sample=st.booleans(),
    temperature=st.one_of(st.just(1.0), st.floats(0.05, 5)),
    top_k=st.one_of(st.just(0), st.integers(0, 80)),
    top_p=st.one_of(st.just(1.0), st.sampled_from([0.1, 0.5, 0.7, 0.9, 0.95]), st.floats(0.01, 1)),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.2, 5)),
    seed=st.integers(0, 2**63 - 1),
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, list[Sequence]]:
    """Logits, sometimes with many ties, and rows with parameters and histories of their own."""
    parameters = draw(st.lists(PARAMETERS, min_size=1, max_size=6))
    vocabulary = draw(st.integers(2, 64))
    tokens = st.lists(st.integers(0, vocabulary - 1), max_size=8)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    logits = torch.randn(len(parameters), vocabulary, generator=generator) * draw(st.sampled_from([0.0, 1, 3, 30]))
    if draw(st.booleans()):
        logits = (logits * 2).round() / 2
    rows = [Sequence(n, [0, *draw(tokens)], p, output=draw(tokens)) for n, p in enumerate(parameters)]
    return logits, rows


def stages(parameters: SamplingParameters) -> LogitsProcessorList:
    """Returns what transformers' generate() would apply to sample with these parameters."""
    config = GenerationConfig(
        do_sample=True,
        temperature=parameters.temperature,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        min_p=parameters.min_p or None,
        repetition_penalty=parameters.repetition_penalty,
    )
    processors: LogitsProcessorList = MODEL._get_logits_processor(config, input_ids_seq_length=1)
    return processors


MODEL: Any = tiny_llama(num_hidden_layers=1)


@given(batches())
@settings(deadline=None, max_examples=200)
def test_penalties_and_warpers_together_equal_those_of_generate_row_by_row(
    batch: tuple[Tensor, list[Sequence]],
) -> None:
    logits, rows = batch
    ours = warp(penalize_repetition(logits, rows), rows)
    for index, row in enumerate(rows):
        history: Any = torch.tensor([row.prompt + row.output])
        theirs = stages(row.parameters)(history, logits[index : index + 1].clone())
        assert torch.equal(ours[index], theirs[0])


@given(batches())
@settings(deadline=None)
def test_each_stage_equals_its_processor_row_by_row(batch: tuple[Tensor, list[Sequence]]) -> None:
    logits, rows = batch
    chosen = [row.parameters for row in rows]
    penalized = penalize_repetition(logits, rows)
    top_k = keep_top_k(logits, [p.top_k for p in chosen])
    min_p = keep_min_p(logits, [p.min_p for p in chosen])
    for index, (row, p) in enumerate(zip(rows, chosen, strict=True)):
        alone = logits[index : index + 1]
        history: Any = torch.tensor([row.prompt + row.output])
        assert torch.equal(penalized[index], RepetitionPenaltyLogitsProcessor(p.repetition_penalty)(history, alone)[0])
        assert torch.equal(top_k[index], TopKLogitsWarper(p.top_k)(NO_IDS, alone)[0] if p.top_k else alone[0])
        assert torch.equal(min_p[index], MinPLogitsWarper(p.min_p)(NO_IDS, alone)[0])


@given(batches())
@settings(deadline=None)
def test_temperature_and_top_p_equal_their_warpers_row_by_row(batch: tuple[Tensor, list[Sequence]]) -> None:
    logits, rows = batch
    chosen = [row.parameters for row in rows]
    plain = [Sequence(0, [0], SamplingParameters(1, temperature=p.temperature)) for p in chosen]
    tempered = warp(logits, plain)
    top_p = keep_top_p(logits, [p.top_p for p in chosen]) if any(p.top_p < 1 for p in chosen) else logits
    for index, p in enumerate(chosen):
        alone = logits[index : index + 1]
        assert torch.equal(tempered[index], TemperatureLogitsWarper(p.temperature)(NO_IDS, alone)[0])
        assert torch.equal(top_p[index], TopPLogitsWarper(p.top_p)(NO_IDS, alone)[0] if p.top_p < 1 else alone[0])


def test_top_p_cuts_equal_probabilities_where_its_warper_does() -> None:
    for vocabulary, percent in itertools.product(range(2, 65), range(1, 100)):
        logits = torch.zeros(1, vocabulary)
        assert torch.equal(keep_top_p(logits, [percent / 100]), TopPLogitsWarper(percent / 100)(NO_IDS, logits))


@given(batches())
@settings(deadline=None)
def test_a_row_that_does_not_sample_takes_its_likeliest_token_after_the_penalty(
    batch: tuple[Tensor, list[Sequence]],
) -> None:
    logits, rows = batch
    before = logits.clone()
    tokens = sample(logits, rows).tokens
    best = penalize_repetition(logits, rows).argmax(dim=-1).tolist()
    greedy = [index for index, row in enumerate(rows) if not row.parameters.do_sample]
    assert [tokens[index] for index in greedy] == [best[index] for index in greedy]
    assert torch.equal(logits, before), "the caller's logits are not changed"


@given(batches(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_row_gets_the_same_token_alone_and_in_any_company(batch: tuple[Tensor, list[Sequence]], rng: Any) -> None:
    logits, rows = batch
    order = list(range(len(rows)))
    rng.shuffle(order)
    together = sample(logits, rows).tokens
    shuffled = sample(logits[order], [rows[index] for index in order]).tokens
    assert shuffled == [together[index] for index in order]
    assert [sample(logits[i : i + 1], rows[i : i + 1]).tokens[0] for i in range(len(rows))] == together


@given(batches())
@settings(deadline=None)
def test_a_drawn_token_is_one_that_the_warpers_left(batch: tuple[Tensor, list[Sequence]]) -> None:
    logits, rows = batch
    left = warp(penalize_repetition(logits, rows), rows)
    for index, token in enumerate(sample(logits, rows).tokens):
        if rows[index].parameters.do_sample:
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
    monkeypatch.setattr(worker.sampling, "uniforms", lambda seeds, _: np.full(len(seeds), number))
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("do_sample", [False, True])
def test_a_row_with_one_bad_logit_is_reported_and_the_others_are_unaffected(bad: float, *, do_sample: bool) -> None:
    parameters: dict[str, Any] = {
        "do_sample": do_sample,
        "top_k": 10,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
    }
    rows = [Sequence(n, [3, 4], SamplingParameters(1, seed=n, **parameters)) for n in range(4)]
    logits = torch.randn(4, 40, generator=torch.Generator().manual_seed(5))
    right = sample(logits, rows)
    logits[2, 17] = bad
    result = sample(logits, rows)
    assert result.finite == [True, True, False, True]
    assert [result.tokens[i] for i in (0, 1, 3)] == [right.tokens[i] for i in (0, 1, 3)]
    assert 0 <= result.tokens[2] < 40


def test_large_finite_logits_are_finite() -> None:
    logits = torch.full((1, 1000), 3.0e38)
    assert sample(logits, by_seed(1, {})).finite == [True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_floating_type_are_taken(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]], dtype=dtype)
    rows: Rows[Sequence] = [Sequence(n, [0], SamplingParameters(1)) for n in range(2)]
    assert sample(logits, rows).tokens == [1, 0]


def test_the_penalty_follows_a_sequence_from_step_to_step() -> None:
    row = Sequence(1, [3, 5], SamplingParameters(max_new_tokens=9, repetition_penalty=1.5))
    generator = torch.Generator().manual_seed(1)
    for token in (7, 5, 11, 2):
        scores = torch.randn(1, 16, generator=generator)
        history = torch.LongTensor([row.prompt + row.output])
        expected = RepetitionPenaltyLogitsProcessor(1.5)(history, scores.clone())
        assert torch.equal(penalize_repetition(scores, [row]), expected)
        row.output.append(token)
