"""Log-probabilities are those of the unmodified logits, and ranks and alternatives do not depend on the company."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.domain.outcome import TokenLogprob
from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.logprobs import token_logprobs
from worker.sampling.sampler import sample


def reference(logits: list[float], token: int, top: int) -> tuple[int, list[int], list[float]]:
    """Returns the rank of a token, the ids of the likeliest and all log-probabilities, by the definition."""
    total = math.log(math.fsum(math.exp(each) for each in logits))
    order = sorted(range(len(logits)), key=lambda each: (-logits[each], each))
    rank = 1 + sum(each > logits[token] for each in logits)
    return rank, order[:top], [each - total for each in logits]


@st.composite
def questions(draw: st.DrawFn) -> tuple[Tensor, list[int], list[int]]:
    """Logits with many ties, a token of each row, and how many alternatives it asks for."""
    vocabulary = draw(st.integers(1, 12))
    row = st.lists(st.integers(-12, 12).map(lambda number: number / 2), min_size=vocabulary, max_size=vocabulary)
    logits = draw(st.lists(row, min_size=1, max_size=5))
    tokens = [draw(st.integers(0, vocabulary - 1)) for _ in logits]
    return torch.tensor(logits), tokens, [draw(st.integers(0, vocabulary)) for _ in logits]


@given(questions())
@settings(deadline=None, max_examples=300)
def test_logprobs_ranks_and_alternatives_are_those_of_the_definition(
    question: tuple[Tensor, list[int], list[int]],
) -> None:
    logits, tokens, tops = question
    for index, found in enumerate(token_logprobs(logits, torch.tensor(tokens), tops)):
        rank, likeliest, logprobs = reference(logits[index].tolist(), tokens[index], tops[index])
        assert found.rank == rank
        assert found.logprob == pytest.approx(logprobs[tokens[index]], abs=1e-5)
        assert [token for token, _ in found.top] == likeliest
        assert [value for _, value in found.top] == pytest.approx([logprobs[each] for each in likeliest], abs=1e-5)


@given(questions())
@settings(deadline=None)
def test_a_token_has_the_same_alternatives_whatever_the_others_ask_for(
    question: tuple[Tensor, list[int], list[int]],
) -> None:
    logits, tokens, tops = question
    together = token_logprobs(logits, torch.tensor(tokens), tops)
    for index, top in enumerate(tops):
        alone = token_logprobs(logits[index : index + 1], torch.tensor(tokens[index : index + 1]), top)
        assert alone == [together[index]]


def test_more_alternatives_than_the_vocabulary_has_are_all_of_it() -> None:
    (found,) = token_logprobs(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2]), 5)
    assert [token for token, _ in found.top] == [1, 2, 0]
    assert found.rank == 2


def test_no_positions_have_no_logprobs() -> None:
    assert token_logprobs(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long), 3) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_of_the_logits_before_any_processor_and_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)).to(dtype)
    settings_of_all: dict[str, Any] = {"do_sample": True, "temperature": 3.0, "repetition_penalty": 2.0, "top_k": 5}
    parameters = SamplingParameters(9, **settings_of_all, logprobs=True, top_logprobs=2, logit_bias=((7, 1000.0),))
    result = sample(logits, [Sequence(1, [1, 2, 3], parameters)])
    expected = logits[0].float().log_softmax(dim=-1)
    assert result.tokens == [7]
    (found,) = result.logprobs
    assert found is not None
    assert found.logprob == float(expected[7])
    assert found.rank == 1 + int((expected > expected[7]).sum())
    assert found.top == tuple((int(token), float(expected[token])) for token in expected.topk(2).indices)


def test_only_rows_that_ask_get_logprobs() -> None:
    rows = [Sequence(n, [0], SamplingParameters(1, logprobs=bool(n % 2), top_logprobs=n)) for n in range(4)]
    result = sample(torch.zeros(4, 6), rows)
    assert [isinstance(each, TokenLogprob) for each in result.logprobs] == [False, True, False, True]
    assert [len(each.top) for each in result.logprobs if each] == [1, 3]
