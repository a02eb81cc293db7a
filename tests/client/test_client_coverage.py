"""No field of the protocol is out of reach: neither in what is asked nor in what is answered."""

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage

from client import Candidate, Delta, Generation, GenerationConfig, Message, Model, Prompt, Timing, Usage
from client.convert import FINISH_REASONS, generate_request
from client.events import Finished, Started
from tests.client.scripted_server import Request, Response
from textserve.v1 import generation_pb2, model_pb2

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


CONFIG_SAMPLES: dict[str, Any] = {
    "max_new_tokens": 5,
    "do_sample": False,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 0.5,
    "min_p": 0.0,
    "repetition_penalty": 1.5,
    "seed": 0,
}


def names(message: type[ProtobufMessage]) -> list[str]:
    return [each.name for each in message.DESCRIPTOR.fields]


def test_every_sampling_parameter_of_the_protocol_is_an_option_of_generate() -> None:
    assert list(CONFIG_SAMPLES) == names(generation_pb2.GenerationConfig)
    for name, value in CONFIG_SAMPLES.items():
        set_fields = generate_request("hi", **{name: value}).generation_config.ListFields()
        assert [(field.name, field_value) for field, field_value in set_fields] == [(name, value)]


OUTPUT_SAMPLES = {"echo": True, "token_ids": True, "skip_special_tokens": False}


def test_every_output_option_of_the_protocol_is_an_option_of_generate() -> None:
    assert list(OUTPUT_SAMPLES) == names(generation_pb2.OutputOptions)
    for name, value in OUTPUT_SAMPLES.items():
        assert getattr(generate_request("hi", **{name: value}).output_options, name) is value  # type: ignore[arg-type]


def test_every_field_of_the_request_can_be_reached_from_generate() -> None:
    options: dict[str, Any] = {"model": "tutor", "stop": ["END"], "temperature": 1.0, "echo": True}
    reached: set[str] = set()
    prompts: list[Prompt] = ["hi", [Message("user", "hi")], [1]]
    for prompt in prompts:
        reached |= {field.name for field, _ in generate_request(prompt, **options).ListFields()}
    assert reached == set(names(Request))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (GenerationConfig, generation_pb2.GenerationConfig),
        (Usage, generation_pb2.Usage),
        (Timing, generation_pb2.Timing),
        (Started, generation_pb2.StreamStarted),
        (Delta, generation_pb2.StreamDelta),
        (Model, model_pb2.Model),
        (Message, generation_pb2.ChatMessage),
    ],
)
def test_a_value_has_a_field_for_each_field_of_its_message(
    value: "type[DataclassInstance]", message: type[ProtobufMessage]
) -> None:
    assert {each.name for each in dataclasses.fields(value)} == set(names(message))


def test_an_answer_and_its_stream_carry_everything_that_the_protocol_has() -> None:
    answer = {each.name for each in dataclasses.fields(Generation)}
    receipt = {"config" if name == "generation_config" else name for name in names(generation_pb2.Receipt)}
    assert answer == (set(names(Response)) - {"receipt"}) | receipt
    candidate = {each.name for each in dataclasses.fields(Candidate)}
    # Its position in the tuple is its index.
    assert candidate == set(names(generation_pb2.Candidate)) - {"candidate_index"}
    finished = {each.name for each in dataclasses.fields(Finished)}
    # Model and seed are those of `started`.
    assert finished == (set(names(generation_pb2.StreamFinished)) - {"receipt"}) | receipt - {
        "model",
        "seed",
    }


def test_every_finish_reason_of_the_protocol_has_a_name_of_ours() -> None:
    protocol = {name.removeprefix("FINISH_REASON_").lower(): number for name, number in reasons().items()}
    assert {reason.value: number for number, reason in FINISH_REASONS.items()} == protocol


def reasons() -> dict[str, int]:
    values = generation_pb2.FinishReason.DESCRIPTOR.values
    return {each.name: each.number for each in values if each.name != "FINISH_REASON_UNSPECIFIED"}


def test_every_sampling_parameter_has_presence() -> None:
    fields: list[FieldDescriptor] = list(generation_pb2.GenerationConfig.DESCRIPTOR.fields)
    assert all(each.has_presence for each in fields)
