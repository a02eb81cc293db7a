"""Beam search finds what `generate(num_beams=...)` finds; and these tests would notice if it did not."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worker.beam_requests import Request, agree, generate, random_request, random_requests
from tests.worker.tiny_models import tiny_llama
from worker.domain.sequence import EarlyStopping
from worker.engine.beam_search import BeamSearch, Hypothesis

HEURISTIC, FIRST, NEVER = EarlyStopping
LENGTH_PENALTIES = (-1.0, 0.0, 0.5, 1.0, 2.0)


def run(model: Any, request: Request, search: BeamSearch) -> list[Hypothesis]:
    """Searches without a cache: each row's context follows `parents`, as the rows of a batch would."""
    contexts = [request.prompt] * request.num_beams
    length = 0
    while not search.is_done:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor(contexts)).logits[:, -1].float()
        search.step(request.mask(logits.log_softmax(dim=-1), length))
        length += 1
        rows = zip(search.parents, search.outputs, strict=True)
        contexts = [[*contexts[parent], output[-1]] for parent, output in rows]
    return search.hypotheses()


def mismatches(
    model: Any, requests: list[Request], search: Callable[[Request], BeamSearch] = Request.search
) -> Iterator[str]:
    """Gives one line for each request of which `generate()` makes something else, as soon as it is found."""
    for request in requests:
        ours, theirs = run(model, request, search(request)), generate(model, request)
        if not agree(ours, theirs):
            yield f"{request}: {ours} != {theirs}"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama(num_hidden_layers=2, eos_token_id=None)


@pytest.mark.parametrize("length_penalty", LENGTH_PENALTIES)
@pytest.mark.parametrize("early_stopping", EarlyStopping)
@pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.long)])
def test_the_search_finds_what_generate_finds(
    model: Any, count: int, early_stopping: EarlyStopping, length_penalty: float
) -> None:
    assert list(mismatches(model, random_requests(count, length_penalty, early_stopping))) == []


def test_the_compared_searches_end_in_every_way(model: Any) -> None:
    requests = random_requests(4, 1.0, HEURISTIC)
    found = [(request, hypothesis) for request in requests for hypothesis in generate(model, request)]
    assert any(hypothesis.tokens[-1] not in request.eos_token_ids for request, hypothesis in found)
    assert any(len(hypothesis.tokens) < request.max_new_tokens for request, hypothesis in found)


class Unnormalized(BeamSearch):
    """Ranks by the sum of log-probabilities."""

    def _normalized(self, score: float, length: int) -> float:
        return score


class Orphaned(BeamSearch):
    """Lets every beam continue its own row."""

    @property
    def parents(self) -> list[int]:
        return list(range(len(super().parents)))


@pytest.mark.parametrize("planted", [Unnormalized, Orphaned])
def test_a_planted_mistake_is_noticed(model: Any, monkeypatch: pytest.MonkeyPatch, planted: type[BeamSearch]) -> None:
    monkeypatch.setattr("tests.worker.beam_requests.BeamSearch", planted)
    assert any(mismatches(model, random_requests(12, 2.0, HEURISTIC)))


@pytest.mark.parametrize(("meant", "taken"), [(HEURISTIC, FIRST), (FIRST, NEVER), (NEVER, HEURISTIC)])
def test_another_rule_of_stopping_is_noticed(model: Any, meant: EarlyStopping, taken: EarlyStopping) -> None:
    requests = random_requests(20, 2.0, meant)
    assert any(mismatches(model, requests, lambda request: replace(request, early_stopping=taken).search()))


def test_one_beam_is_greedy_search(model: Any) -> None:
    prompt = [5, 6, 7]
    request = Request(prompt, 1, 1, 1.0, HEURISTIC, max_new_tokens=12, eos_token_ids=frozenset(range(20)))
    greedy = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 3),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=sorted(request.eos_token_ids),
    )
    assert run(model, request, request.search())[0].tokens == greedy[0, len(prompt) :].tolist()


def random_log_probs(rng: random.Random, rows: int, vocabulary: int, *, masked: float = 0.0) -> Tensor:
    """Returns log-probabilities of which a share is masked."""
    numbers = torch.Generator().manual_seed(rng.getrandbits(32))
    log_probs = torch.randn(rows, vocabulary, generator=numbers).mul(2).log_softmax(dim=-1)
    return log_probs.masked_fill(torch.rand(rows, vocabulary, generator=numbers) < masked, -math.inf)


@pytest.mark.parametrize("number", range(150))
def test_any_search_keeps_its_bounds(number: int) -> None:
    """Vocabularies smaller than the beams, masked rows and extreme penalties included."""
    rng = random.Random(number)
    vocabulary = rng.choice([1, 2, 3, 5, 40])
    request = replace(
        random_request(rng, rng.choice([-100.0, -1.0, 0.0, 1.0, 100.0]), rng.choice(list(EarlyStopping))),
        eos_token_ids=frozenset(rng.sample(range(vocabulary), rng.randint(0, min(vocabulary, 4)))),
        max_new_tokens=rng.choice([1, 5, 20, 2000]) if vocabulary > 5 else rng.randint(1, 20),
    )
    search = request.search()
    masked = rng.choice([0.0, 0.5, 0.95, 1.0])
    log_probs = random_log_probs(rng, 1, vocabulary, masked=masked).expand(request.num_beams, -1)
    for length in range(1, request.max_new_tokens + 1):
        if search.step(log_probs):
            assert not search.is_done
            assert not search.step(random_log_probs(rng, 1, vocabulary).expand(request.num_beams, -1))
        check_beams(search, request, length)
        if search.is_done:
            break
        log_probs = random_log_probs(rng, request.num_beams, vocabulary, masked=masked)
    assert search.is_done
    check_hypotheses(search.hypotheses(), request)


def check_beams(search: BeamSearch, request: Request, length: int) -> None:
    beams = len(search.parents)
    assert beams == request.num_beams or (search.is_done and beams == 0)
    assert set(search.parents) <= set(range(request.num_beams))
    assert [len(output) for output in search.outputs] == [length] * beams
    assert not any(request.eos_token_ids & set(output) for output in search.outputs)


def check_hypotheses(hypotheses: list[Hypothesis], request: Request) -> None:
    scores = [hypothesis.score for hypothesis in hypotheses]
    assert len(hypotheses) == request.num_return_sequences
    assert all(map(math.isfinite, scores)), "nothing is found that must not come up"
    assert scores == sorted(scores, reverse=True)
    for hypothesis in hypotheses:
        assert 1 <= len(hypothesis.tokens) <= request.max_new_tokens
        assert not request.eos_token_ids & set(hypothesis.tokens[:-1])
        assert hypothesis.tokens[-1] in request.eos_token_ids or len(hypothesis.tokens) == request.max_new_tokens


@pytest.mark.parametrize("early_stopping", EarlyStopping)
def test_a_search_cut_off_has_what_as_many_tokens_would_have_given(early_stopping: EarlyStopping) -> None:
    rng = random.Random(7)
    request = Request([2], 4, 4, 1.0, early_stopping, max_new_tokens=16, eos_token_ids=frozenset(range(6)))
    long = request.search()
    steps = [random_log_probs(rng, 1, 40).expand(4, -1), *(random_log_probs(rng, 4, 40) for _ in range(15))]
    for length, log_probs in enumerate(steps, start=1):
        long.step(log_probs)
        if long.is_done:
            break
        short = replace(request, max_new_tokens=length).search()
        for each in steps[:length]:
            if not short.is_done:
                short.step(each)
        assert short.is_done
        assert long.hypotheses() == short.hypotheses()
    assert len(long.hypotheses()[0].tokens) > 1


def test_never_stopping_early_judges_a_beam_as_it_is_if_length_counts_against_it() -> None:
    end, a, b, c, never = 0, 1, 2, 3, -50.0
    search = Request([2], 2, 2, -1.0, NEVER, max_new_tokens=10, eos_token_ids=frozenset({end})).search()
    search.step(torch.tensor([[-1.0, -1.2, -1.3, never]] * 2))
    assert search.outputs == [[a], [b]]
    search.step(torch.tensor([[never, never, never, 0.0], [-1.6, never, never, never]]))
    assert not search.is_done, "at its length the best beam has -2.4, the worst hypothesis -5.8"
    search.step(torch.tensor([[0.0, never, never, never], [never] * 4]))
    assert search.is_done
    assert [hypothesis.tokens for hypothesis in search.hypotheses()] == [[end], [a, c, end]]
    assert search.hypotheses()[1].score == pytest.approx(-3.6)


def test_the_outputs_are_the_callers_to_change() -> None:
    search = Request([2], 2, 1, 1.0, HEURISTIC, max_new_tokens=2, eos_token_ids=frozenset()).search()
    search.step(torch.tensor([[-1.0, -2.0, -3.0]] * 2))
    search.outputs[0].append(99)
    search.step(torch.tensor([[-1.0, -2.0, -3.0]] * 2))
    assert search.hypotheses() == [Hypothesis([0, 0], -1.0)]
