"""A parameter has one name, type, range and default, in the proto, the client, the gateway, the worker and the docs.

A new field of the proto fails here until it is everywhere.
"""

import ast
import inspect
import math
import re
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor

import client
from client import GenerateOptions
from gateway.domain.generation_config import EffectiveConfig, ExponentialDecay, GenerationConfig, config_violations
from gateway.request.defaults import resolve
from gateway.workers.protocol import write_config
from tests.parameters import PARAMETERS, VOCAB_SIZE
from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2
from worker.domain.sequence import Beams, SamplingParameters
from worker.loading.checkpoint.generation_defaults import GenerationDefaults
from worker.service.submission import roots

ROOT = Path(__file__).parent.parent
FIELDS = {field.name: field for field in generation_pb2.GenerationConfig.DESCRIPTOR.fields}
NUMBERS = {
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
}
STRUCTURED: dict[str, Any] = {
    "logit_bias": tuple[tuple[int, float], ...],
    "bad_words_ids": tuple[tuple[int, ...], ...],
    "exponential_decay_length_penalty": ExponentialDecay,
    "early_stopping": int,
    "max_time": float,
}
"""The gateway's types of what is neither a number nor a list of them."""
OF_THE_CLIENT = {"exponential_decay_length_penalty": tuple[int, float], "early_stopping": client.EarlyStopping}
OF_THE_WORKER = {"exponential_decay_length_penalty": tuple[int, float]}
RENAMED = {"exponential_decay_length_penalty": "exponential_decay"}
"""How the engine calls them."""
THE_GATEWAYS_OWN = {
    "ignore_eos": "the engine is told which tokens end a sequence",
    "max_time": "the gateway ends the sequences",
    "num_return_sequences": "the engine is given sequences",
    "best_of": "the same",
}
"""What is no parameter of the engine's, and why."""
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff"}
BEAMS = {"length_penalty", "early_stopping"}


def kind(name: str) -> Any:
    """The type of a field of the proto as a Python value that is set."""
    if name in STRUCTURED:
        return STRUCTURED[name]
    number = NUMBERS[FIELDS[name].cpp_type]
    return tuple[number, ...] if FIELDS[name].is_repeated else number  # type: ignore[valid-type]


def optional(name: str, kinds: dict[str, Any] | None = None) -> set[Any]:
    """The types of one that may be unset; a list then is empty."""
    of_value = (kinds or {}).get(name, kind(name))
    return members(of_value if FIELDS[name].is_repeated else of_value | None)


def members(annotation: Any) -> set[Any]:
    """The members of a union, or the type itself."""
    return set(get_args(annotation)) if get_origin(annotation) in {Union, UnionType} else {annotation}


def default_of(kind: type, name: str) -> Any:
    (field,) = [field for field in fields(kind) if field.name == name]
    return field.default


def test_the_table_is_that_of_the_proto() -> None:
    assert list(PARAMETERS) == list(FIELDS)


@pytest.mark.parametrize("config", [client.GenerationConfig, GenerationConfig, EffectiveConfig])
def test_client_and_gateway_have_every_parameter_and_no_other(config: Any) -> None:
    assert {field.name for field in fields(config)} == PARAMETERS.keys()


def test_every_parameter_is_one_of_the_engines_or_the_gateways_own() -> None:
    of_the_engine = {field.name for kind in (SamplingParameters, Beams) for field in fields(kind)}
    assert {RENAMED.get(name, name) for name in PARAMETERS.keys() - THE_GATEWAYS_OWN.keys()} <= of_the_engine
    assert not of_the_engine & THE_GATEWAYS_OWN.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_that_may_be_unset_has_the_protos_type(name: str) -> None:
    assert members(get_type_hints(client.GenerationConfig)[name]) == optional(name, OF_THE_CLIENT)
    assert members(get_type_hints(GenerationConfig)[name]) == optional(name)
    if name in {field.name for field in fields(GenerationDefaults)}:
        assert members(get_type_hints(GenerationDefaults)[name]) == {
            *members(OF_THE_WORKER.get(name, OF_THE_CLIENT.get(name, kind(name)))),
            NoneType,
        }


@pytest.mark.parametrize("name", PARAMETERS)
def test_gateway_and_engine_have_the_same_type_and_the_same_default(name: str) -> None:
    default = PARAMETERS[name].default
    of_value = {kind(name)} | ({NoneType} if default is None and name != "seed" else set())
    assert members(get_type_hints(EffectiveConfig)[name]) == of_value
    assert default_of(EffectiveConfig, name) == (MISSING if name == "seed" else default)
    hints, own = get_type_hints(SamplingParameters), RENAMED.get(name, name)
    if own not in hints or name in {"max_new_tokens", "seed"}:  # which every submission has
        return
    if hints[own] == frozenset[int]:
        assert (of_value, default) == ({tuple[int, ...]}, ())
        assert default_of(SamplingParameters, own) == frozenset()
    else:
        assert members(hints[own]) == {OF_THE_WORKER[name] if each is ExponentialDecay else each for each in of_value}
        assert default_of(SamplingParameters, own) == default


def submission(name: str, value: Any) -> pb.Submit:
    """What a gateway would submit for a request with this value, if it did not check it."""
    extra: dict[str, Any] = {"do_sample": True} if name in SAMPLING else {"num_beams": 2} if name in BEAMS else {}
    config = resolve(GenerationConfig(**{name: value}, **extra), GenerationConfig(), room=10**6, seed=5)
    return pb.Submit(
        prompt_token_ids=[1],
        generation_config=write_config(config),
        sequences=[pb.SubmittedSequence(sequence_id=1, seed=config.seed)],
    )


def is_taken(submit: pb.Submit) -> bool:
    try:
        roots(submit, owner=0, vocab_size=VOCAB_SIZE, eos_token_ids=[2], max_rows=8)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in PARAMETERS.items() for value in row.good])
def test_what_is_in_range_passes_the_gateway_and_the_engine(name: str, value: Any) -> None:
    assert not list(config_violations(GenerationConfig(**{name: value}), VOCAB_SIZE))
    assert is_taken(submission(name, value))


def beyond(name: str) -> tuple[Any, ...]:
    is_float = isinstance((*PARAMETERS[name].bad, 0)[0], float)
    return (*PARAMETERS[name].bad, *((math.nan, math.inf, -math.inf) if is_float else ()))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in PARAMETERS for value in beyond(name)])
def test_what_is_out_of_range_passes_neither(name: str, value: Any) -> None:
    assert list(config_violations(GenerationConfig(**{name: value}), VOCAB_SIZE))
    if name in THE_GATEWAYS_OWN or name == "num_beams":  # fewer than one are none
        return
    assert not is_taken(submission(name, value))


@cache
def option_docs() -> dict[str, str]:
    """The client's words, by option."""
    (definition,) = ast.parse(inspect.getsource(GenerateOptions)).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body[1::2], definition.body[2::2], strict=True)
    return {ast.unparse(field).split(":")[0]: ast.unparse(doc) for field, doc in pairs}


def proto_comment(name: str) -> str:
    text = (ROOT / "protos/textserve/v1/generation.proto").read_text()
    comment = re.search(rf"((?: *//.*\n)+) *[\w<>, .]+ {name} = {FIELDS[name].number};", text)
    assert comment, name
    kind = FIELDS[name].message_type
    parts = re.search(rf"\nmessage {kind.name} {{(.*?)\n}}", text, re.DOTALL) if kind else None
    return comment[1] + (parts[1] if parts else "")


def parameters_page(name: str) -> str:
    """The row of its table."""
    page = (ROOT / "docs/parameters.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    return row


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_description_tells_the_same_range(name: str) -> None:
    for text in (proto_comment(name), option_docs()[name], parameters_page(name)):
        for end in PARAMETERS[name].told:
            assert re.search(rf"(?<![\w.,-]){re.escape(end)}(?!\w|[.,]\d)", text), f"{end} in {text}"
