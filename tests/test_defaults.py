"""What a model's generation_config.json sets goes from the worker through the gateway back to the worker's engine."""

from dataclasses import fields, replace
from typing import Any

import pytest

from gateway.domain.generation_config import GenerationConfig, valid_part
from gateway.request.defaults import MODELS_OWN, resolve
from gateway.workers.protocol import read_description, write_config
from tests.worker.service.test_messages import FACTS, TOKENIZER
from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2
from worker.loading.checkpoint.generation_defaults import GenerationDefaults
from worker.scheduling.scheduler import Limits
from worker.service import messages
from worker.service.submission import roots

EVERY = GenerationDefaults(
    max_new_tokens=50,
    min_new_tokens=2,
    do_sample=True,
    temperature=0.5,
    top_k=3,
    top_p=0.9,
    min_p=0.25,
    typical_p=0.75,
    epsilon_cutoff=0.01,
    repetition_penalty=1.5,
    no_repeat_ngram_size=4,
    bad_words_ids=((3,), (4, 5)),
    logit_bias=((6, 1.5), (9, -1.0)),
    exponential_decay_length_penalty=(10, 1.25),
    suppress_tokens=(11, 12),
    begin_suppress_tokens=(13,),
    forced_bos_token_id=14,
    forced_eos_token_id=15,
    length_penalty=0.5,
    early_stopping="never",
    stop_strings=("END",),
)
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff"}
BEAMS = {"length_penalty", "early_stopping"}
PARAMETERS = [field.name for field in fields(EVERY) if field.name != "stop_strings"]


def described(defaults: GenerationDefaults) -> pb.DescribeResponse:
    return messages.description(replace(FACTS, defaults=defaults), Limits(8, 1024, 4096, 1024), TOKENIZER, "me")


def receipt(defaults: GenerationDefaults, requested: GenerationConfig) -> generation_pb2.GenerationConfig:
    """Returns the effective parameters of a request to a model with these defaults."""
    facts = read_description(described(defaults)).facts
    valid, violations = valid_part(facts.generation_defaults, facts.vocab_size)
    assert not violations
    return write_config(resolve(requested, valid, room=1000, seed=5))


def engines(config: generation_pb2.GenerationConfig) -> tuple[Any, Any]:
    """Returns what the worker's engine makes of effective parameters: those of a row, and its beam search."""
    submit = pb.Submit(prompt_token_ids=[1], generation_config=config, sequences=[pb.SubmittedSequence(sequence_id=1)])
    (root,) = roots(submit, owner=0, vocab_size=FACTS.vocab_size, eos_token_ids=FACTS.eos_token_ids, max_rows=8)
    beams = root.sequences[0].beams
    return root.sequences[0].parameters, beams and (beams.length_penalty, beams.early_stopping)


def test_both_sides_know_the_same_defaults() -> None:
    assert set(PARAMETERS) == MODELS_OWN


def test_what_a_worker_sends_is_in_the_receipt_of_an_empty_request() -> None:
    sent = described(EVERY).generation_defaults
    assert {field.name for field, _ in sent.ListFields()} == MODELS_OWN
    effective = receipt(EVERY, GenerationConfig())
    for field, value in sent.ListFields():
        assert getattr(effective, field.name) == value, field.name


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_default_alone_is_in_the_receipt_and_reaches_the_engine(name: str) -> None:
    alone = replace(GenerationDefaults(), **{name: getattr(EVERY, name)})
    requested = GenerationConfig(do_sample=True if name in SAMPLING else None, num_beams=2 if name in BEAMS else None)
    sent = described(alone).generation_defaults
    effective, without = (receipt(each, requested) for each in (alone, GenerationDefaults()))
    assert getattr(effective, name) == getattr(sent, name)
    assert engines(effective) != engines(without), "it acts"


@pytest.mark.parametrize("name", ["num_beams", "seed", "best_of", "num_return_sequences", "allowed_token_ids"])
def test_what_models_have_no_say_in_is_neither_announced_nor_applied(name: str) -> None:
    value = (3,) if name == "allowed_token_ids" else 3
    values: dict[str, Any] = {"top_k": 4, name: value}
    valid, violations = valid_part(GenerationConfig(**values), 50)
    assert valid == GenerationConfig(top_k=4)
    assert [violation.field for violation in violations] == [name]


def test_a_models_stop_strings_are_told_to_the_gateway() -> None:
    assert read_description(described(EVERY)).facts.stop_sequences == ("END",)
