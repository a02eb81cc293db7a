"""What a gateway submits: everything is read, and what the engine could not survive is refused."""

import math
from dataclasses import fields
from typing import Any

import pytest

from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2
from worker.domain.sequence import EarlyStopping, Root, SamplingParameters
from worker.service import submission

VOCAB_SIZE = 100
NAN, INF = math.nan, math.inf
SCALARS: dict[str, Any] = {
    "max_new_tokens": 5,
    "min_new_tokens": 2,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.25,
    "typical_p": 0.75,
    "epsilon_cutoff": 0.125,
    "repetition_penalty": 1.5,
    "presence_penalty": -1.5,
    "frequency_penalty": 0.5,
    "no_repeat_ngram_size": 4,
    "forced_bos_token_id": 11,
    "forced_eos_token_id": 12,
}
NEUTRAL: dict[str, Any] = {
    "max_new_tokens": 5,
    "temperature": 1.0,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
}


def submit(
    *, prompt: list[int] | None = None, seed: int = 7, outputs: list[list[int]] | None = None, **changes: Any
) -> pb.Submit:
    sequences = [
        pb.SubmittedSequence(sequence_id=40 + n, seed=seed + n, output_token_ids=output)
        for n, output in enumerate([[]] if outputs is None else outputs)
    ]
    return pb.Submit(
        sequences=sequences,
        prompt_token_ids=[5, 6] if prompt is None else prompt,
        generation_config=generation_pb2.GenerationConfig(**(NEUTRAL | changes)),
    )


def read(message: pb.Submit) -> list[Root]:
    return submission.roots(message, owner=3, vocab_size=VOCAB_SIZE, eos_token_ids=[1, 2], max_rows=4)


def test_a_submission_becomes_a_sequence_with_every_parameter() -> None:
    message = submit(
        **SCALARS,
        bad_words_ids=[generation_pb2.TokenSequence(ids=[5, 6])],
        logit_bias={9: 2.0, 8: -1.0},
        allowed_token_ids=[20, 21],
        stop_token_ids=[22],
        suppress_tokens=[23],
        begin_suppress_tokens=[24],
        exponential_decay_length_penalty=generation_pb2.ExponentialDecayLengthPenalty(start_index=3, factor=1.25),
    )
    message.logprobs, message.top_logprobs, message.priority = True, 4, 2
    (root,) = read(message)
    (sequence,) = root.sequences
    assert (sequence.sequence_id, sequence.owner, sequence.prompt, sequence.priority) == (40, 3, [5, 6], 2)
    parameters = SamplingParameters(
        **SCALARS,
        seed=7,
        eos_token_ids=frozenset([1, 2]),
        stop_token_ids=frozenset([22]),
        exponential_decay=(3, 1.25),
        logit_bias=((8, -1.0), (9, 2.0)),
        bad_words_ids=((5, 6),),
        allowed_token_ids=frozenset([20, 21]),
        suppress_tokens=frozenset([23]),
        begin_suppress_tokens=frozenset([24]),
        logprobs=True,
        top_logprobs=4,
    )
    assert sequence.parameters == parameters
    unset = SamplingParameters(max_new_tokens=1)
    assert all(getattr(parameters, field.name) != getattr(unset, field.name) for field in fields(unset))


def test_a_sequence_that_ignores_the_end_has_only_the_requests_own_stop_tokens() -> None:
    (root,) = read(submit(ignore_eos=True, stop_token_ids=[22]))
    assert root.sequences[0].parameters.end_token_ids == {22}


def test_candidates_share_one_root_and_differ_in_their_seeds() -> None:
    (root,) = read(submit(outputs=[[], [], []]))
    assert root.tokens == [5, 6]
    assert [(each.sequence_id, each.parameters.seed) for each in root.sequences] == [(40, 7), (41, 8), (42, 9)]


def test_candidates_that_go_on_from_tokens_have_roots_of_their_own() -> None:
    fresh, begun, other = read(submit(outputs=[[], [8], [], [9, 10]]))
    assert [each.sequence_id for each in fresh.sequences] == [40, 42]
    assert (begun.tokens, begun.sequences[0].output) == ([5, 6, 8], [8])
    assert (other.tokens, other.sequences[0].sequence_id) == ([5, 6, 9, 10], 43)


@pytest.mark.parametrize("outputs", [[[]], [[8]], [[8], [9]]], ids=str)
def test_the_log_probabilities_of_the_prompt_are_reported_by_one_root(outputs: list[list[int]]) -> None:
    message = submit(prompt=[5, 6, 7], outputs=outputs)
    message.prompt_logprobs, message.top_logprobs = True, 2
    assert [each.prompt_logprobs for each in read(message)] == [2] + [None] * (len(outputs) - 1)


def test_a_beam_search_has_its_own_rows_and_reports_to_the_candidates() -> None:
    message = submit(outputs=[[], []], num_beams=4, length_penalty=0.5)
    message.generation_config.early_stopping = generation_pb2.EARLY_STOPPING_NEVER
    (root,) = read(message)
    assert [row.beam_index for row in root.sequences] == [0, 1, 2, 3]
    (beams,) = {row.beams for row in root.sequences}
    assert beams is not None
    assert [each.sequence_id for each in beams.candidates] == [40, 41]
    assert (beams.length_penalty, beams.early_stopping) == (0.5, EarlyStopping.NEVER)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": [0, VOCAB_SIZE - 1]},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"max_new_tokens": 2**31 - 1},
        {"top_k": 2**31 - 1},
        {"top_p": 1e-9},
        {"min_p": 1.0},
        {"typical_p": 1e-9},
        {"temperature": 1e-9, "do_sample": True},
        {"temperature": 0.0, "do_sample": False},
        {"repetition_penalty": 1e-3},
        {"presence_penalty": -100.0, "frequency_penalty": 100.0},
        {"logit_bias": {0: -1000.0, VOCAB_SIZE - 1: 1000.0}},
        {"outputs": [[8] * 4]},
        {"num_beams": 4},
    ],
    ids=str,
)
def test_the_ends_of_each_range_are_taken(changes: dict[str, Any]) -> None:
    assert read(submit(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": []},
        {"prompt": [5, -1]},
        {"prompt": [5, VOCAB_SIZE]},
        {"outputs": []},
        {"outputs": [[VOCAB_SIZE]]},
        {"outputs": [[8] * 5]},
        {"seed": -1},
        {"max_new_tokens": 0},
        {"min_new_tokens": -1},
        {"top_k": -1},
        {"temperature": 0.0, "do_sample": True},
        {"temperature": NAN, "do_sample": True},
        {"temperature": INF, "do_sample": True},
        {"top_p": 0.0},
        {"top_p": NAN},
        {"min_p": 1.1},
        {"min_p": NAN},
        {"typical_p": 0.0},
        {"typical_p": NAN},
        {"epsilon_cutoff": 1.0},
        {"epsilon_cutoff": NAN},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": INF},
        {"presence_penalty": NAN},
        {"presence_penalty": 101.0},
        {"frequency_penalty": NAN},
        {"no_repeat_ngram_size": -1},
        {"length_penalty": NAN},
        {"logit_bias": {VOCAB_SIZE: 1.0}},
        {"logit_bias": {5: NAN}},
        {"logit_bias": {5: INF}},
        {"allowed_token_ids": [-1]},
        {"stop_token_ids": [VOCAB_SIZE]},
        {"suppress_tokens": [VOCAB_SIZE]},
        {"begin_suppress_tokens": [VOCAB_SIZE]},
        {"bad_words_ids": [generation_pb2.TokenSequence(ids=[5, VOCAB_SIZE])]},
        {"forced_bos_token_id": VOCAB_SIZE},
        {"forced_eos_token_id": -1},
        {"exponential_decay_length_penalty": generation_pb2.ExponentialDecayLengthPenalty(start_index=-1, factor=2)},
        {"exponential_decay_length_penalty": generation_pb2.ExponentialDecayLengthPenalty(factor=NAN)},
        {"num_beams": 5},
        {"num_beams": 2, "outputs": [[], [], []]},
        {"num_beams": 2, "outputs": [[8]]},
        {"num_beams": 2, "early_stopping": 99},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(submit(**changes))


@pytest.mark.parametrize("priority", [-1, 3])
def test_a_priority_that_would_pass_all_others_is_refused(priority: int) -> None:
    message = submit()
    message.priority = priority
    with pytest.raises(ValueError, match="priority"):
        read(message)


@pytest.mark.parametrize("name", ["max_new_tokens", "top_p", "typical_p", "repetition_penalty"])
def test_a_submission_that_lacks_a_parameter_whose_zero_is_out_of_range_is_refused(name: str) -> None:
    message = submit()
    message.generation_config.ClearField(name)  # type: ignore[arg-type] # the name of a field
    with pytest.raises(ValueError, match=name):
        read(message)
