"""Every row gets what transformers' own processors give it alone, stage by stage and all together."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.examples import examples
from tests.worker.sampling.settings import (
    PROCESSORS,
    WARPERS,
    batches,
    generate_processors,
    processed_alone,
    same_but_for_equals,
)
from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.drawing import warp
from worker.sampling.sampler import process

# What a processor depends on beside its own setting.
ALONE = {
    "logit_bias": (),
    "repetition_penalty": (),
    "presence_penalty": (),
    "frequency_penalty": (),
    "no_repeat_ngram_size": (),
    "bad_words_ids": ("eos_token_ids",),
    "min_new_tokens": ("eos_token_ids", "stop_token_ids"),
    "allowed_token_ids": ("eos_token_ids", "stop_token_ids"),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay": ("eos_token_ids",),
    "suppress_tokens": (),
    "begin_suppress_tokens": ("forced_bos_token_id",),
}


def test_every_setting_of_a_row_is_among_the_random_ones() -> None:
    others = {"max_new_tokens", "logprobs", "top_logprobs"}
    assert {*PROCESSORS, *WARPERS} | others == set(SamplingParameters.__dataclass_fields__)
    assert {*ALONE, "eos_token_ids", "stop_token_ids"} == set(PROCESSORS)


@pytest.mark.parametrize("count", [10, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ALONE)
def test_each_processor_equals_its_own_in_transformers_row_by_row(name: str, count: int) -> None:
    used = {each: PROCESSORS[each] for each in (name, *ALONE[name])}

    @given(batches(**used))
    @settings(max_examples=count)
    def check(batch: tuple[Tensor, list[Sequence]]) -> None:
        logits, rows = batch
        ours = process(logits, rows)
        for index, row in enumerate(rows):
            assert torch.equal(ours[index], processed_alone(row, logits[index]))

    check()


@examples(given(batches(**PROCESSORS)), few=30, many=150)
def test_all_processors_together_equal_those_of_generate_row_by_row(batch: tuple[Tensor, list[Sequence]]) -> None:
    logits, rows = batch
    before = logits.clone()
    ours = process(logits, rows)
    for index, row in enumerate(rows):
        assert torch.equal(ours[index], processed_alone(row, logits[index]))
    assert torch.equal(logits, before), "the caller's logits are not changed"


@examples(given(batches(**PROCESSORS, **WARPERS)), few=30, many=150)
def test_processors_and_warpers_together_equal_those_of_generate_row_by_row(
    batch: tuple[Tensor, list[Sequence]],
) -> None:
    logits, rows = batch
    processed = process(logits, rows)
    ours = warp(processed.clone(), rows)
    for index, row in enumerate(rows):
        # Of a row that its processors leave nothing transformers makes NaN.
        if processed[index].amax() > float("-inf"):
            assert same_but_for_equals(ours[index], processed_alone(row, logits[index], do_sample=True))


@examples(given(batches(**PROCESSORS), st.lists(st.integers(0, 3), min_size=1, max_size=12)), few=15, many=40)
def test_what_is_kept_of_a_sequence_follows_it_from_step_to_step(
    batch: tuple[Tensor, list[Sequence]], tokens: list[int]
) -> None:
    logits, rows = batch
    for token in tokens:
        ours = process(logits, rows)
        for index, row in enumerate(rows):
            assert torch.equal(ours[index], processed_alone(row, logits[index]))
            row.output.append(token)


@pytest.mark.parametrize("prompt", [[7], [7, 8]])
@pytest.mark.parametrize("forced", [None, 3])
def test_the_first_token_that_is_not_forced_is_suppressed(prompt: list[int], forced: int | None) -> None:
    suppressed = SamplingParameters(9, begin_suppress_tokens=frozenset({5}), forced_bos_token_id=forced)
    row = Sequence(1, prompt, suppressed)
    steps = []
    for _ in range(3):
        row.output.append(4)
        scores = process(torch.zeros(1, 10), [Sequence(1, prompt, suppressed, output=row.output[:-1])])[0]
        steps.append(bool(scores[5] == float("-inf") and scores[4] == 0))
    assert steps == ([False, True, False] if forced and len(prompt) == 1 else [True, False, False])


def test_transformers_order_is_that_of_the_stages() -> None:
    every: dict[str, Any] = {
        "eos_token_ids": frozenset({1}),
        "repetition_penalty": 1.5,
        "presence_penalty": 1.0,
        "no_repeat_ngram_size": 2,
        "logit_bias": ((3, 1.0),),
        "bad_words_ids": ((4, 5),),
        "min_new_tokens": 2,
        "allowed_token_ids": frozenset({2, 3}),
        "forced_bos_token_id": 2,
        "forced_eos_token_id": 1,
        "exponential_decay": (0, 2.0),
        "suppress_tokens": frozenset({6}),
        "begin_suppress_tokens": frozenset({7}),
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 0.5,
        "epsilon_cutoff": 0.1,
    }
    row = Sequence(1, [2, 3], SamplingParameters(9, **every))
    assert [type(processor).__name__ for processor in generate_processors(row, do_sample=True)] == [
        "SequenceBiasLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "OutputPenalties",
        "NoRepeatNGramLogitsProcessor",
        "NoBadWordsLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "Allowed",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "ExponentialDecayLengthPenalty",
        "SuppressTokensLogitsProcessor",
        "SuppressTokensAtBeginLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
    ]
