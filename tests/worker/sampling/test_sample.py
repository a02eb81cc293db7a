"""Every row gets one token, whatever its settings and its company."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.examples import examples
from tests.worker.sampling.settings import PROCESSORS, WARPERS, batches
from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.drawing import warp
from worker.sampling.sampler import process, sample

MASKED = float("-inf")
EVERY = {
    **PROCESSORS,
    **WARPERS,
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 6),
}
EXTREME = {
    **EVERY,
    "temperature": st.sampled_from([1e-300, 1e-38, 1e-9, 1.0, 100.0]),
    "repetition_penalty": st.sampled_from([1e-300, 1e-30, 1.0, 100.0]),
    "presence_penalty": st.sampled_from([-100.0, 100.0]),
    "frequency_penalty": st.sampled_from([-100.0, 100.0]),
    "exponential_decay": st.sampled_from([(0, 100.0), (0, 1e-9), (1, 2.0)]),
    "top_p": st.sampled_from([1e-300, 1 - 1e-16, 1.0]),
    "typical_p": st.sampled_from([1e-300, 1 - 1e-16, 1.0]),
    "min_p": st.sampled_from([1e-300, 1.0]),
    "epsilon_cutoff": st.sampled_from([1e-300, 1 - 1e-16]),
    "logit_bias": st.sampled_from([((0, 1000.0), (1, -1000.0)), ()]),
}
Batch = tuple[Tensor, list[Sequence]]


def only(index: int, batch: Batch) -> Batch:
    """Returns one row of a batch, with nothing kept of its sequence yet."""
    logits, rows = batch
    row = rows[index]
    return logits[index : index + 1], [Sequence(row.sequence_id, row.prompt, row.parameters, output=row.output)]


@examples(given(batches(**EVERY), st.randoms(use_true_random=False)), few=15, many=60)
def test_a_row_is_the_same_alone_and_in_any_company_bit_for_bit(batch: Batch, rng: Any) -> None:
    logits, rows = batch
    order = list(range(len(rows)))
    rng.shuffle(order)
    processed = process(logits, rows)
    warped = warp(processed.clone(), rows)
    together = sample(logits, rows)
    shuffled = sample(logits[order], [rows[index] for index in order])
    assert shuffled.tokens == [together.tokens[index] for index in order]
    for index in range(len(rows)):
        alone, row = only(index, batch)
        assert torch.equal(process(alone, row)[0], processed[index])
        if processed[index].amax() > MASKED:
            assert torch.equal(warp(process(alone, row).clone(), row)[0], warped[index])
        result = sample(alone, row)
        assert (result.tokens[0], result.logprobs[0]) == (together.tokens[index], together.logprobs[index])


@examples(given(batches(**EVERY)), few=20, many=100)
def test_a_row_that_does_not_sample_takes_its_likeliest_processed_token(batch: Batch) -> None:
    logits, rows = batch
    before = logits.clone()
    tokens = sample(logits, rows).tokens
    processed = process(logits, rows)
    for index, row in enumerate(rows):
        if not row.parameters.do_sample and processed[index].amax() > MASKED:
            assert tokens[index] == int(processed[index].argmax())
    assert torch.equal(logits, before), "the caller's logits are not changed"


@examples(given(batches(**EXTREME), st.sampled_from([1e-30, 1.0, 1e30])), few=20, many=60)
def test_extreme_settings_make_no_nan_and_no_infinity(batch: Batch, scale: float) -> None:
    logits, rows = batch
    logits = logits * scale
    processed = process(logits, rows)
    assert ((processed == MASKED) | processed.isfinite()).all()
    living = [index for index in range(len(rows)) if processed[index].amax() > MASKED]
    warped = warp(processed[living], [rows[index] for index in living])
    assert ((warped == MASKED) | warped.isfinite()).all()
    assert (warped.amax(dim=-1) > MASKED).all()
    assert sample(logits, rows).finite == [True] * len(rows)


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_row_that_is_left_no_token_ends_with_its_likeliest_end(*, do_sample: bool) -> None:
    nothing: dict[str, Any] = {
        "do_sample": do_sample,
        "top_p": 0.9,
        "suppress_tokens": frozenset(range(8)),
        "eos_token_ids": frozenset({2, 4}),
        "stop_token_ids": frozenset({5, 70}),
    }
    logits = torch.tensor([[0.0, 9.0, 3.0, 8.0, 4.0, 2.0, 1.0, 0.0]] * 3)
    plain = SamplingParameters(1, do_sample=do_sample, top_k=1)
    rows = [Sequence(0, [0], plain), Sequence(1, [0], SamplingParameters(9, **nothing)), Sequence(2, [0], plain)]
    result = sample(logits, rows)
    assert result.tokens == [1, 4, 1]
    assert result.finite == [True, True, True]


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_row_that_is_left_no_token_and_has_no_end_takes_its_likeliest_one(*, do_sample: bool) -> None:
    nothing = SamplingParameters(9, do_sample=do_sample, suppress_tokens=frozenset({3}), forced_eos_token_id=3)
    row = Sequence(1, [0], nothing, output=[1] * 8)
    assert sample(torch.tensor([[0.0, 5.0, 1.0, 9.0]]), [row]).tokens == [3]


def left_by(row: Sequence, *, all_of_them: bool) -> set[int]:
    """Returns, of a vocabulary of 8, what may come next by some of the constraints or by all, judged one by one."""
    p, text = row.parameters, [*row.prompt, *row.output]
    grams = {tuple(text[start : start + 2]) for start in range(len(text) - 1)}
    left = set(range(8)) - p.suppress_tokens - {words[0] for words in p.bad_words_ids if len(words) == 1}
    left &= (p.allowed_token_ids | p.end_token_ids) if p.allowed_token_ids else set(range(8))
    left -= p.begin_suppress_tokens if not row.output else set()
    left -= p.end_token_ids if len(row.output) < p.min_new_tokens else set()
    if all_of_them:
        left -= {each for each in left if p.no_repeat_ngram_size and (text[-1], each) in grams}
        left -= {words[1] for words in p.bad_words_ids if len(words) == 2 and words[0] == text[-1]}
    return left


SMALL = st.frozensets(st.integers(0, 7), max_size=6)
MEETING = st.builds(
    SamplingParameters,
    st.just(9),
    do_sample=st.booleans(),
    seed=st.integers(0, 99),
    stop_token_ids=st.frozensets(st.integers(0, 7), max_size=2),
    min_new_tokens=st.integers(0, 4),
    no_repeat_ngram_size=st.sampled_from([0, 2]),
    bad_words_ids=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=2).map(tuple), max_size=8).map(tuple),
    allowed_token_ids=st.frozensets(st.integers(0, 7), min_size=1, max_size=2),
    suppress_tokens=SMALL,
    begin_suppress_tokens=SMALL,
)


@examples(
    given(MEETING, st.lists(st.integers(0, 7), min_size=1, max_size=20), st.lists(st.integers(0, 7), max_size=6)),
    few=80,
    many=300,
)
def test_where_nothing_is_left_the_history_gives_way_and_then_the_row_ends_if_it_may(
    parameters: SamplingParameters, prompt: list[int], output: list[int]
) -> None:
    row = Sequence(1, prompt, parameters, output=output)
    (token,) = sample(torch.randn(1, 8, generator=torch.Generator().manual_seed(len(prompt))), [row]).tokens
    every, holding = (left_by(row, all_of_them=each) for each in (True, False))
    ends = parameters.end_token_ids
    expected = every or holding & ends or holding or ends or parameters.allowed_token_ids
    assert token in expected


@pytest.mark.parametrize("do_sample", [False, True])
def test_what_may_come_up_and_how_much_go_before_what_must_not_be_repeated(*, do_sample: bool) -> None:
    parameters = SamplingParameters(
        9,
        do_sample=do_sample,
        eos_token_ids=frozenset({2}),
        allowed_token_ids=frozenset({4, 6}),
        no_repeat_ngram_size=1,
        min_new_tokens=6,
    )
    row = Sequence(1, [0], parameters)
    while not row.is_finished:
        row.append(sample(torch.arange(8.0)[None], [row]).tokens[0])
    assert len(row.output) == 7
    assert set(row.output[:6]) == {4, 6} == set(row.output[:2])
    assert row.output[-1] == 2


def test_a_token_that_is_forced_comes_although_it_is_suppressed() -> None:
    parameters = SamplingParameters(3, forced_eos_token_id=2, suppress_tokens=frozenset({2, 5}))
    row = Sequence(1, [0], parameters)
    while not row.is_finished:
        row.append(sample(torch.tensor([[0.0, 9.0, 3.0, 8.0, 4.0, 10.0]]), [row]).tokens[0])
    assert row.output == [1, 1, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("do_sample", [False, True])
def test_a_row_with_one_bad_logit_is_reported_and_the_others_are_unaffected(bad: float, *, do_sample: bool) -> None:
    parameters: dict[str, Any] = {
        "do_sample": do_sample,
        "eos_token_ids": frozenset({17}),
        "top_k": 10,
        "top_p": 0.9,
        "min_p": 0.01,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 1.0,
        "no_repeat_ngram_size": 2,
        "exponential_decay": (0, 1.5),
        "allowed_token_ids": frozenset(range(30)),
        "logprobs": True,
        "top_logprobs": 3,
    }
    rows = [Sequence(n, [3, 4], SamplingParameters(9, seed=n, **parameters), output=[5, 3]) for n in range(4)]
    logits = torch.randn(4, 40, generator=torch.Generator().manual_seed(5))
    right = sample(logits, rows)
    logits[2, 17] = bad
    result = sample(logits, rows)
    assert result.finite == [True, True, False, True]
    assert [result.tokens[i] for i in (0, 1, 3)] == [right.tokens[i] for i in (0, 1, 3)]
    assert [result.logprobs[i] for i in (0, 1, 3)] == [right.logprobs[i] for i in (0, 1, 3)]
    assert 0 <= result.tokens[2] < 40
    assert result.logprobs[2] is None


def test_large_finite_logits_are_finite() -> None:
    logits = torch.full((1, 1000), 3.0e38)
    assert sample(logits, [Sequence(0, [0], SamplingParameters(1, do_sample=True))]).finite == [True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_floating_type_are_taken(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]], dtype=dtype)
    rows = [
        Sequence(0, [0], SamplingParameters(1, logit_bias=((0, 9.0),))),
        Sequence(1, [0], SamplingParameters(1, logprobs=True, top_logprobs=1)),
    ]
    result = sample(logits, rows)
    assert result.tokens == [0, 0]
    assert [bool(each) for each in result.logprobs] == [False, True]


def test_tokens_that_the_head_does_not_know_are_ignored() -> None:
    unknown: dict[str, Any] = {
        "repetition_penalty": 2.0,
        "presence_penalty": 1.0,
        "no_repeat_ngram_size": 1,
        "bad_words_ids": ((99,), (0, 99)),
        "logit_bias": ((99, 5.0),),
        "suppress_tokens": frozenset({99}),
        "eos_token_ids": frozenset({99}),
        "min_new_tokens": 9,
    }
    row = Sequence(1, [99], SamplingParameters(9, **unknown), output=[99])
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(process(logits, [row]), logits)
