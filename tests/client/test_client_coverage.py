"""No field of the protocol is out of reach: neither in what is asked nor in what is answered."""

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message as ProtobufMessage

from client import (
    Candidate,
    Delta,
    Estimate,
    Generation,
    GenerationConfig,
    Message,
    Model,
    ModelLimits,
    Prompt,
    Timing,
    TokenLogprob,
    TokenPiece,
    Tool,
    ToolCall,
    TopLogprob,
    Usage,
)
from client._wire.convert import CAPABILITIES, FINISH_REASONS, generation_from
from client._wire.request import EARLY_STOPPING, generate_request
from client.types.events import Finished, PromptLogprobs, Receipt, Started
from tests.client.scripted_server import Request, Response
from textserve.v1 import generation_pb2, model_pb2, tokenization_pb2

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
    "typical_p": 0.5,
    "epsilon_cutoff": 0.0,
    "presence_penalty": -1.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": ((1, 2), (3,)),
    "logit_bias": ((0, 1.5), (7, -2.0)),
    "allowed_token_ids": (4, 0),
    "min_new_tokens": 0,
    "stop_token_ids": (0, 9),
    "ignore_eos": False,
    "exponential_decay_length_penalty": (0, 1.5),
    "num_beams": 1,
    "length_penalty": 0.0,
    "early_stopping": False,
    "suppress_tokens": (1,),
    "begin_suppress_tokens": (2,),
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 0,
    "num_return_sequences": 1,
    "best_of": 3,
    "max_time": 0.5,
}
OUTPUT_SAMPLES: dict[str, Any] = {
    "echo": True,
    "token_ids": True,
    "skip_special_tokens": False,
    "include_stop_sequence": True,
    "logprobs": True,
    "top_logprobs": 5,
    "prompt_logprobs": True,
}


def names(message: type[ProtobufMessage]) -> list[str]:
    return [each.name for each in message.DESCRIPTOR.fields]


@pytest.mark.parametrize(("name", "value"), CONFIG_SAMPLES.items())
def test_a_parameter_is_the_same_value_in_an_option_and_in_a_receipt(name: str, value: Any) -> None:
    config = generate_request("hi", **{name: value}).generation_config
    assert [field.name for field, _ in config.ListFields()] == [name]
    receipt = generation_pb2.Receipt(generation_config=config)
    answer = generation_from(Response(candidates=[generation_pb2.Candidate()], receipt=receipt))
    assert answer.config == GenerationConfig(**{name: value})
    # A zero is told from nothing.
    assert answer.config != GenerationConfig()


def test_every_parameter_of_the_protocol_is_an_option_of_generate() -> None:
    assert list(CONFIG_SAMPLES) == names(generation_pb2.GenerationConfig)


def test_a_request_with_the_values_of_a_receipt_is_the_same_request() -> None:
    request = generate_request("hi", **CONFIG_SAMPLES)
    receipt = generation_pb2.Receipt(generation_config=request.generation_config)
    config = generation_from(Response(candidates=[generation_pb2.Candidate()], receipt=receipt)).config
    assert generate_request("hi", **dataclasses.asdict(config)) == request
    assert len({config, GenerationConfig(**CONFIG_SAMPLES)}) == 1


@pytest.mark.parametrize(("name", "value"), OUTPUT_SAMPLES.items())
def test_an_output_option_is_an_option_of_generate(name: str, value: Any) -> None:
    set_fields = generate_request("hi", **{name: value}).output_options.ListFields()
    assert [(field.name, field_value) for field, field_value in set_fields] == [(name, value)]


def test_every_output_option_of_the_protocol_is_an_option_of_generate() -> None:
    assert list(OUTPUT_SAMPLES) == names(generation_pb2.OutputOptions)


def test_every_field_of_the_request_can_be_reached_from_generate() -> None:
    options: dict[str, Any] = {
        "model": "tutor",
        "stop": ["END"],
        "temperature": 1.0,
        "echo": True,
        "truncate_prompt": 9,
        "request_id": "r1",
        "partial_on_deadline": True,
        "resume_from": {1: [5, 6]},
        "ignored_defaults": ["stop"],
    }
    reached: set[str] = set()
    prompts: list[Prompt] = ["hi", [Message("user", "hi")], [1]]
    for prompt in prompts:
        reached |= {field.name for field, _ in generate_request(prompt, **options).ListFields()}
    assert reached == set(names(Request))


def test_every_field_of_a_chat_can_be_reached_from_generate() -> None:
    call = ToolCall("f", {"x": 1}, "c1")
    message = Message("user", ["a", "b"], name="n", tool_calls=[call], tool_call_id="c1", reasoning="r")
    request = generate_request(
        [message],
        tools=[Tool("f", "does f", {"type": "object"})],
        tool_choice="none",
        template_arguments={"enable_thinking": False},
        continue_last_message=True,
    )
    assert {field.name for field, _ in request.chat.ListFields()} == set(names(generation_pb2.ChatPrompt))
    (written,) = request.chat.messages
    assert {field.name for field, _ in written.ListFields()} == set(names(generation_pb2.ChatMessage)) - {"text"}
    for each in (request.chat.tools[0].function, written.tool_calls[0], written.tool_calls[0].function):
        assert len(each.ListFields()) == len(each.DESCRIPTOR.fields)


def test_no_option_has_the_name_of_two_fields() -> None:
    messages = (
        generation_pb2.GenerationConfig,
        generation_pb2.OutputOptions,
        generation_pb2.GenerateRequest,
        generation_pb2.ChatPrompt,
    )
    of_all = [name for message in messages for name in names(message)]
    assert len(of_all) == len(set(of_all))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (GenerationConfig, generation_pb2.GenerationConfig),
        (Usage, generation_pb2.Usage),
        (Timing, generation_pb2.Timing),
        (Started, generation_pb2.StreamStarted),
        (PromptLogprobs, generation_pb2.StreamPromptLogprobs),
        (Delta, generation_pb2.StreamDelta),
        (TokenLogprob, generation_pb2.TokenLogprob),
        (TopLogprob, generation_pb2.TopLogprob),
        (Model, model_pb2.Model),
        (ModelLimits, model_pb2.ModelLimits),
        (Estimate, generation_pb2.EstimateGenerateResponse),
        (TokenPiece, tokenization_pb2.TokenPiece),
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
    # Model and the request's seed are those of `started`.
    assert finished == set(names(generation_pb2.StreamFinished))
    assert {each.name for each in dataclasses.fields(Receipt)} == receipt


def test_every_finish_reason_of_the_protocol_has_a_name_of_ours() -> None:
    protocol = {
        name.lower(): number
        for name, number in numbers(generation_pb2.FinishReason.DESCRIPTOR, "FINISH_REASON_").items()
    }
    assert {reason.value: number for number, reason in FINISH_REASONS.items()} == protocol


def test_every_capability_of_the_protocol_has_a_name_of_ours() -> None:
    protocol = numbers(model_pb2.ModelCapability.DESCRIPTOR, "MODEL_CAPABILITY_")
    assert {each.value.upper(): number for number, each in CAPABILITIES.items()} == protocol


def test_every_early_stopping_of_the_protocol_has_a_value_of_ours() -> None:
    assert set(EARLY_STOPPING.values()) == set(
        numbers(generation_pb2.EarlyStopping.DESCRIPTOR, "EARLY_STOPPING_").values()
    )


def numbers(enum: EnumDescriptor, prefix: str) -> dict[str, int]:
    """The enum's values by name without their prefix, less the unspecified one."""
    named = {each.name.removeprefix(prefix): each.number for each in enum.values}
    return {name: number for name, number in named.items() if name != "UNSPECIFIED"}
