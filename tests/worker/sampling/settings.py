"""Random settings and histories, and the processors that transformers' `generate()` would build from them."""

from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, MinNewTokensLengthLogitsProcessor

from tests.worker.tiny_models import tiny_llama
from worker.domain.sequence import SamplingParameters, Sequence

MODEL: Any = tiny_llama(num_hidden_layers=1)
FEWEST, MOST = 4, 48
"""Sizes of the vocabularies."""

token = st.integers(0, FEWEST - 1) | st.integers(0, MOST - 1)
some_tokens = st.frozensets(token, max_size=6)
no_tokens: st.SearchStrategy[frozenset[int]] = st.just(frozenset())
eighths = st.just(0.0) | st.integers(-800, 800).map(lambda number: number / 8)
"""Exact in float32, so that a sum does not depend on its order."""

# What every row uses, with the value that switches it off among its values.
PROCESSORS: dict[str, st.SearchStrategy[Any]] = {
    "min_new_tokens": st.sampled_from([0, 0, 1, 3, 9]),
    "eos_token_ids": some_tokens,
    "stop_token_ids": no_tokens | some_tokens,
    "repetition_penalty": st.just(1.0) | st.floats(0.2, 5) | st.floats(0.01, 100),
    "presence_penalty": eighths,
    "frequency_penalty": eighths,
    "no_repeat_ngram_size": st.integers(0, 4),
    "exponential_decay": st.none() | st.tuples(st.integers(0, 6), st.floats(0.5, 3)),
    "logit_bias": st.dictionaries(token, st.floats(-1000, 1000), max_size=5).map(lambda bias: tuple(bias.items())),
    "bad_words_ids": st.lists(st.lists(token, min_size=1, max_size=3).map(tuple), max_size=5).map(tuple),
    "allowed_token_ids": no_tokens | some_tokens,
    "suppress_tokens": no_tokens | some_tokens,
    "begin_suppress_tokens": no_tokens | some_tokens,
    "forced_bos_token_id": st.none() | token,
    "forced_eos_token_id": st.none() | token,
}
WARPERS: dict[str, st.SearchStrategy[Any]] = {
    "do_sample": st.booleans(),
    "seed": st.integers(0, 2**63 - 1),
    "temperature": st.just(1.0) | st.floats(0.05, 5),
    "top_k": st.just(0) | st.integers(0, 80),
    "top_p": st.just(1.0) | st.sampled_from([0.1, 0.5, 0.7, 0.9, 0.95]) | st.floats(0.01, 1),
    "min_p": st.just(0.0) | st.floats(0, 1),
    # Nearer to 1 than sums of float32 are right, what is left is rounding.
    "typical_p": st.just(1.0) | st.floats(0.01, 0.9999),
    "epsilon_cutoff": st.just(0.0) | st.floats(0, 0.5),
}


def within(parameters: SamplingParameters, vocabulary: int) -> SamplingParameters:
    """Returns the parameters with every token id folded into the vocabulary."""

    def fold(ids: frozenset[int]) -> frozenset[int]:
        return frozenset(each % vocabulary for each in ids)

    def fold_one(each: int | None) -> int | None:
        return None if each is None else each % vocabulary

    return replace(
        parameters,
        eos_token_ids=fold(parameters.eos_token_ids),
        stop_token_ids=fold(parameters.stop_token_ids),
        allowed_token_ids=fold(parameters.allowed_token_ids),
        suppress_tokens=fold(parameters.suppress_tokens),
        begin_suppress_tokens=fold(parameters.begin_suppress_tokens),
        forced_bos_token_id=fold_one(parameters.forced_bos_token_id),
        forced_eos_token_id=fold_one(parameters.forced_eos_token_id),
        logit_bias=tuple({each % vocabulary: value for each, value in parameters.logit_bias}.items()),
        bad_words_ids=tuple(tuple(each % vocabulary for each in word) for word in parameters.bad_words_ids),
    )


@st.composite
def batches(draw: st.DrawFn, /, **used: st.SearchStrategy[Any]) -> tuple[Tensor, list[Sequence]]:
    """Logits, sometimes with many ties, and rows with settings (drawn from `used`) and histories of their own."""
    vocabulary = draw(st.integers(FEWEST, MOST))
    # Few distinct tokens, so that n-grams and bad words do come up.
    history = st.lists(st.integers(0, draw(st.sampled_from([2, vocabulary - 1]))), max_size=9)
    rows = []
    for number in range(draw(st.integers(1, 6))):
        output = draw(history)
        most = draw(st.sampled_from([len(output) + 1, 99]))
        parameters = draw(st.builds(SamplingParameters, st.just(most), **used))
        rows.append(Sequence(number, [0, *draw(history)], within(parameters, vocabulary), output=output))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    logits = torch.randn(len(rows), vocabulary, generator=generator) * draw(st.sampled_from([0.0, 1, 3, 30]))
    if draw(st.booleans()):
        logits = (logits * 2).round() / 2
    return logits, rows


class OutputPenalties(LogitsProcessor):
    """Presence and frequency penalty, written token by token: transformers has none."""

    def __init__(self, row: Sequence) -> None:
        self.row = row

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.clone()
        for each in set(self.row.output):
            count = self.row.output.count(each)
            parameters = self.row.parameters
            scores[0, each] -= parameters.presence_penalty + parameters.frequency_penalty * count
        return scores


class Allowed(LogitsProcessor):
    """What transformers' processor for `prefix_allowed_tokens_fn` does as long as a token is left.

    Where none is, that one makes the allowed ones equally likely; ours leaves it to `resort`.
    """

    def __init__(self, allowed: list[int]) -> None:
        self.allowed = allowed

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        masked = torch.full_like(scores, -torch.inf)
        masked[:, self.allowed] = scores[:, self.allowed]
        return masked


def generate_processors(row: Sequence, *, do_sample: bool) -> LogitsProcessorList:
    """Returns what transformers' `generate()` applies with a row's settings, and the two penalties that it lacks."""
    p = row.parameters
    eos = sorted(p.eos_token_ids)
    words = [list(word) for word in p.bad_words_ids if not (len(word) == 1 and word[0] in eos)]
    config = GenerationConfig(
        do_sample=do_sample,
        num_beams=1,
        temperature=p.temperature,
        top_k=p.top_k,
        top_p=p.top_p,
        min_p=p.min_p or None,
        typical_p=p.typical_p,
        epsilon_cutoff=p.epsilon_cutoff,
        repetition_penalty=p.repetition_penalty,
        no_repeat_ngram_size=p.no_repeat_ngram_size,
        sequence_bias=[[[each], value] for each, value in p.logit_bias] or None,
        bad_words_ids=words or None,
        min_new_tokens=p.min_new_tokens,
        forced_bos_token_id=p.forced_bos_token_id,
        forced_eos_token_id=p.forced_eos_token_id,
        max_length=len(row.prompt) + p.max_new_tokens,
        exponential_decay_length_penalty=p.exponential_decay if eos else None,
        begin_suppress_tokens=sorted(p.begin_suppress_tokens) or None,
    )
    # Set behind the constructor's back, which refuses to suppress a forced token.
    config.suppress_tokens = sorted(p.suppress_tokens) or None
    config._eos_token_tensor = torch.tensor(eos, dtype=torch.long)
    allowed = sorted(p.allowed_token_ids | p.end_token_ids)
    processors: LogitsProcessorList = MODEL._get_logits_processor(
        config,
        input_ids_seq_length=len(row.prompt),
        prefix_allowed_tokens_fn=(lambda *_: allowed) if p.allowed_token_ids else None,
    )
    for processor in processors:
        if isinstance(processor, MinNewTokensLengthLogitsProcessor):
            # Ours masks the request's own stop tokens, too.
            processor.eos_token_id = torch.tensor(sorted(p.end_token_ids), dtype=torch.long)
    names = [type(processor).__name__ for processor in processors]
    if p.allowed_token_ids:
        processors[names.index("PrefixConstrainedLogitsProcessor")] = Allowed(allowed)
    before = ("SequenceBiasLogitsProcessor", "RepetitionPenaltyLogitsProcessor")
    processors.insert(sum(name in before for name in names), OutputPenalties(row))
    return processors


def processed_alone(row: Sequence, logits: Tensor, *, do_sample: bool = False) -> Tensor:
    """Returns [vocabulary]: what transformers makes of a row's logits [vocabulary] and its own history."""
    history: Any = torch.tensor([row.prompt + row.output])
    scores: Any = logits[None].clone()
    processed: Tensor = generate_processors(row, do_sample=do_sample)(history, scores)
    return processed[0]


def same_but_for_equals(ours: Tensor, theirs: Tensor) -> bool:
    """Returns whether as many tokens of each score are left; which of equals is arbitrary in transformers' top_p."""
    return torch.equal(ours.sort().values, theirs.sort().values)
