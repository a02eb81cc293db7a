"""Beam searches keep every constraint: they find what `generate()` finds, and what trying all texts would find."""

import itertools
import math
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import worker.engine.engine
from tests.examples import examples
from tests.worker.beam_requests import SCORE_TOLERANCE, TRANSFORMERS_NAME
from tests.worker.engine.test_engine_beams import engine_over, run
from tests.worker.sampling.settings import Allowed
from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.domain.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence
from worker.engine.beam_search import Hypothesis
from worker.sampling.sampler import resort

MODEL: Any = tiny_llama(num_hidden_layers=2, eos_token_id=None)
PROMPTS = [[5, 6, 7], [9], [3, 4, 3, 4, 8]]
FIRST_COPY = -1e8
"""Below it are the copies of the first beam that count where it has too few continuations."""

token = st.integers(0, VOCAB_SIZE - 1)
few = st.integers(0, 9)
"""So few that constraints meet."""
few_tokens = st.frozensets(few, max_size=4)
CONSTRAINTS: dict[str, st.SearchStrategy[Any]] = {
    "eos_token_ids": st.frozensets(few | token, max_size=3),
    "min_new_tokens": st.integers(0, 3),
    "repetition_penalty": st.just(1.0) | st.floats(0.5, 2),
    "no_repeat_ngram_size": st.integers(0, 3),
    "exponential_decay": st.none() | st.tuples(st.integers(0, 3), st.floats(0.5, 2)),
    "logit_bias": st.dictionaries(few | token, st.floats(-5, 5), max_size=4).map(lambda bias: tuple(bias.items())),
    "bad_words_ids": st.lists(st.lists(few, min_size=1, max_size=2).map(tuple), max_size=4).map(tuple),
    "allowed_token_ids": st.just(frozenset()) | st.frozensets(few, min_size=2, max_size=6),
    "suppress_tokens": few_tokens,
    "begin_suppress_tokens": few_tokens,
    "forced_bos_token_id": st.none() | few,
    "forced_eos_token_id": st.none() | few,
}


def without_forced(parameters: SamplingParameters) -> SamplingParameters:
    """Returns the parameters without suppressing what they force: that `generate()` refuses."""
    forced = {parameters.forced_bos_token_id, parameters.forced_eos_token_id}
    return replace(parameters, suppress_tokens=parameters.suppress_tokens - forced)


parameters = st.builds(SamplingParameters, st.integers(3, 5), **CONSTRAINTS).map(without_forced)


class Search:
    """What is asked of beam search."""

    def __init__(
        self,
        prompt: list[int],
        parameters: SamplingParameters,
        *,
        num_beams: int,
        num_return_sequences: int,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = EarlyStopping.HEURISTIC,
    ) -> None:
        self.prompt = prompt
        self.parameters = parameters
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.early_stopping = early_stopping
        self.candidates = [Sequence(number, prompt, parameters) for number in range(num_return_sequences)]
        self.resorted = 0
        """How often no beam was left a token."""

    def run(self) -> list[Hypothesis]:
        """Returns what the engine finds."""
        beams = Beams(self.num_beams, self.length_penalty, self.early_stopping, self.candidates)
        with patch.object(worker.engine.engine, "resort", self._resort):
            run(engine_over(MODEL), [Root(self.prompt, beams.rows())])
        return [Hypothesis(each.output, each.score or 0.0) for each in self.candidates]

    def generate(self) -> list[Hypothesis]:
        """Returns what `generate()` finds."""
        p = self.parameters
        ids: Any = torch.tensor([self.prompt])
        eos = sorted(p.eos_token_ids)
        words = [list(words) for words in p.bad_words_ids if not (len(words) == 1 and words[0] in eos)]
        answer = MODEL.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=self.num_beams,
            num_return_sequences=len(self.candidates),
            length_penalty=self.length_penalty,
            early_stopping=TRANSFORMERS_NAME[self.early_stopping],
            max_new_tokens=p.max_new_tokens,
            min_new_tokens=p.min_new_tokens,
            eos_token_id=eos or None,
            pad_token_id=0,
            repetition_penalty=p.repetition_penalty,
            no_repeat_ngram_size=p.no_repeat_ngram_size,
            exponential_decay_length_penalty=p.exponential_decay if eos else None,
            sequence_bias=[[[each], value] for each, value in p.logit_bias] or None,
            bad_words_ids=words or None,
            prefix_allowed_tokens_fn=self._allowed if p.allowed_token_ids else None,
            suppress_tokens=sorted(p.suppress_tokens) or None,
            begin_suppress_tokens=sorted(p.begin_suppress_tokens) or None,
            forced_bos_token_id=p.forced_bos_token_id,
            forced_eos_token_id=p.forced_eos_token_id,
            output_scores=True,
            return_dict_in_generate=True,
        )
        outputs = answer.sequences[:, len(self.prompt) :].tolist()
        lengths = (answer.beam_indices >= 0).sum(dim=1).tolist()
        found = zip(outputs, lengths, answer.sequences_scores.tolist(), strict=True)
        return [Hypothesis(output[:length], score) for output, length, score in found]

    def _allowed(self, *_: Any) -> list[int]:
        return sorted(self.parameters.allowed_token_ids | self.parameters.end_token_ids)

    def _resort(self, *given: Any) -> Any:
        self.resorted += 1
        return resort(*given)


def real(hypotheses: Rows[Hypothesis]) -> list[Hypothesis]:
    return [each for each in hypotheses if each.score > FIRST_COPY]


def same(ours: Rows[Hypothesis], theirs: Rows[Hypothesis]) -> bool:
    """Returns whether they are the same texts in the same order; texts of equal scores in any."""
    if len(ours) != len(theirs):
        return False
    if not all(math.isclose(a.score, b.score, abs_tol=SCORE_TOLERANCE) for a, b in zip(ours, theirs, strict=True)):
        return False
    scores = [each.score for each in theirs]
    if any(a - b < SCORE_TOLERANCE for a, b in itertools.pairwise(scores)):
        return True
    return [each.tokens for each in ours] == [each.tokens for each in theirs]


@examples(
    given(
        st.sampled_from(PROMPTS),
        parameters,
        st.integers(2, 4).flatmap(lambda beams: st.tuples(st.just(beams), st.integers(1, beams))),
        st.sampled_from([0.0, 1.0, 2.0]),
        st.sampled_from(EarlyStopping),
    ),
    few=10,
    many=30,
)
def test_with_any_constraints_a_search_finds_what_generate_finds(
    prompt: list[int],
    parameters: SamplingParameters,
    rows: tuple[int, int],
    length_penalty: float,
    early_stopping: EarlyStopping,
) -> None:
    num_beams, num_return_sequences = rows
    search = Search(
        prompt,
        parameters,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
    ours = search.run()
    assert len(ours) == num_return_sequences
    assert all(math.isfinite(each.score) for each in ours)
    if not search.resorted:  # where nothing is left, `generate()` gives a text that breaks the constraints
        theirs = real(search.generate())
        assert same(real(ours)[: len(theirs)], theirs)


def keeps(p: SamplingParameters, prompt: list[int], output: tuple[int, ...]) -> bool:
    """Returns whether a text keeps the constraints, judged token by token."""
    return (
        not any(_repeats(p.no_repeat_ngram_size, [*prompt, *output[:end]]) for end in range(1, len(output) + 1))
        and not any(
            [*prompt, *output[:end]][-len(word) :] == list(word)
            for word in p.bad_words_ids
            for end in range(1, len(output) + 1)
        )
        and p.suppress_tokens.isdisjoint(output)
        and p.begin_suppress_tokens.isdisjoint(output[:1])
    )


def _repeats(size: int, text: list[int]) -> bool:
    """Returns whether the last n-gram of a text was there before."""
    before = (text[start : start + size] for start in range(len(text) - size))
    return size > 0 and text[-size:] in before


def likelihood(prompt: list[int], output: tuple[int, ...]) -> float:
    with torch.inference_mode():
        logits = MODEL(input_ids=torch.tensor([[*prompt, *output]])).logits[0].float()
    log_probs = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
    return float(log_probs[range(len(output)), list(output)].sum()) / len(output)


@examples(
    given(
        st.sampled_from(PROMPTS),
        st.builds(
            SamplingParameters,
            st.just(3),
            allowed_token_ids=st.frozensets(few, min_size=1, max_size=2),
            no_repeat_ngram_size=st.integers(0, 3),
            bad_words_ids=st.lists(st.lists(few, min_size=1, max_size=2).map(tuple), max_size=6).map(tuple),
            suppress_tokens=few_tokens,
            begin_suppress_tokens=few_tokens,
        ),
    ),
    few=10,
    many=30,
)
def test_a_search_over_few_tokens_finds_the_best_of_all_texts_that_keep_the_constraints(
    prompt: list[int], parameters: SamplingParameters
) -> None:
    allowed = parameters.allowed_token_ids
    texts = [each for each in itertools.product(sorted(allowed), repeat=3) if keeps(parameters, prompt, each)]
    best = sorted((Hypothesis(list(each), likelihood(prompt, each)) for each in texts), key=lambda each: -each.score)
    search = Search(prompt, parameters, num_beams=8, num_return_sequences=8)
    ours = search.run()
    if texts:
        assert same(real(ours)[: len(best)], best)
        assert {tuple(each.tokens) for each in ours} <= set(texts), "nothing else is found, however many are wanted"
    else:
        assert search.resorted
        assert all(set(each.tokens) <= allowed for each in ours)


def test_a_forbidden_continuation_is_not_the_best() -> None:
    parameters = SamplingParameters(4, allowed_token_ids=frozenset({5, 6}), bad_words_ids=((5, 5), (5, 6)))
    ours = Search([5, 6, 7], parameters, num_beams=2, num_return_sequences=2).run()
    assert [each.tokens for each in ours] == [[6, 6, 6, 5], [6, 6, 6, 6]]
    assert [each.score for each in ours] == [
        pytest.approx(likelihood([5, 6, 7], tuple(each.tokens)), abs=SCORE_TOLERANCE) for each in ours
    ]


def test_the_allowed_of_the_comparison_are_those_of_transformers_while_some_are_left() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    assert Allowed([0, 2])(None, scores).tolist() == [[1.0, -math.inf, 3.0]]


def test_with_fewer_texts_than_are_wanted_the_last_comes_again() -> None:
    words = tuple((first, second) for first, second in itertools.product((5, 6), repeat=2) if (first, second) != (6, 6))
    parameters = SamplingParameters(3, allowed_token_ids=frozenset({5, 6}), bad_words_ids=words)
    ours = Search(
        [5, 9], replace(parameters, begin_suppress_tokens=frozenset({5})), num_beams=3, num_return_sequences=3
    )
    assert {tuple(each.tokens) for each in ours.run()} == {(6, 6, 6)}
    assert not ours.resorted
