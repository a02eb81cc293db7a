"""Prompts and options become requests without loss."""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast, get_args, get_type_hints

import pytest

from client import EarlyStopping, GenerateOptions, Message, Prompt, Tool, ToolCall
from client._wire.request import generate_request
from textserve.v1 import generation_pb2


class Integer:
    """An integer of somebody else's, such as NumPy's."""

    def __index__(self) -> int:
        return 42


def test_text_stays_text() -> None:
    assert generate_request("A, B").text == "A, B"


def test_an_empty_text_is_the_servers_to_judge() -> None:
    # A tokenizer that adds a BOS token makes a prompt of it.
    assert generate_request("").WhichOneof("prompt") == "text"


def test_messages_become_a_chat_in_their_order() -> None:
    request = generate_request([Message("system", "Be brief."), Message("user", "")])
    assert [(each.role, each.text) for each in request.chat.messages] == [("system", "Be brief."), ("user", "")]


def test_mappings_with_role_and_content_are_messages() -> None:
    prompt: list[Message | Mapping[str, str]] = [
        {"role": "system", "content": "Be brief."},
        Message("user", ""),
        MappingProxyType({"content": "a", "role": "b"}),
    ]
    messages = generate_request(prompt).chat.messages
    assert [(each.role, each.text) for each in messages] == [("system", "Be brief."), ("user", ""), ("b", "a")]


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ({"role": "user"}, "not 'role'"),
        ({}, "not none"),
        ({"role": "user", "content": "hi", "age": 5}, "not 'role', 'content', 'age'"),
        ({"role": "user", "content": None}, "the content of a message must be a str, or a list of parts"),
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "a part of a message is a str"),
        ({"role": 5, "content": "hi"}, "the role of a message must be a str, not 5"),
        (Message("user", cast("str", None)), "the content of a message must be a str, or a list of parts"),
        (Message("user", cast("str", b"hi")), "a part of a message is a str"),
    ],
)
def test_what_is_no_message_is_refused_with_what_is_wrong(message: Any, wrong: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(wrong)):
        generate_request([message])


@pytest.mark.parametrize("prompt", [Message("user", "hi"), {"role": "user", "content": "hi"}])
def test_one_message_by_itself_is_refused_with_what_helps(prompt: Any) -> None:
    with pytest.raises(TypeError, match="put it into a list"):
        generate_request(prompt)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([0, 1, 42], [0, 1, 42]), ((0, 1), [0, 1]), (range(3), [0, 1, 2]), (cast("list[int]", [Integer()]), [42])],
)
def test_integers_of_any_type_become_token_ids(ids: Sequence[int], expected: list[int]) -> None:
    assert list(generate_request(ids).tokens.ids) == expected


@pytest.mark.parametrize(
    "prompt", [b"text", ["text"], [1.5], [Message("user", "hi"), 1], [1, Message("user", "hi")], [None], 5, None]
)
def test_a_prompt_of_another_type_is_refused(prompt: Any) -> None:
    with pytest.raises(TypeError, match="a prompt is"):
        generate_request(prompt)


def test_what_a_caller_holds_of_a_lost_call_goes_by_candidate() -> None:
    resumed = generate_request("hi", resume_from={0: [5, 6], 2: (7,)}).resume_from.candidates
    assert [(each.candidate_index, list(each.token_ids)) for each in resumed] == [(0, [5, 6]), (2, [7])]


@pytest.mark.parametrize("prompt", [[], ()])
def test_an_empty_sequence_is_refused(prompt: Prompt) -> None:
    with pytest.raises(ValueError, match="empty"):
        generate_request(prompt)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**63),
        ("max_new_tokens", 2**31),
        ("stop", "\udc80"),
        ("suppress_tokens", [2**31]),
        ("logit_bias", {2**31: 1.0}),
        ("exponential_decay_length_penalty", (1, 2, 3)),
        ("early_stopping", "always"),
        ("early_stopping", []),
    ],
)
def test_a_value_that_no_field_can_hold_is_refused_by_name(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name}: "):
        generate_request("hi", **options)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model", 5, "str | None"),
        ("temperature", "warm", "float | None"),
        ("max_new_tokens", 1.5, "int | None"),
        ("echo", "yes", "bool | None"),
        ("stop", 5, "str | Sequence[str] | None"),
        ("stop_token_ids", "ab", "Sequence[int] | None"),
        ("stop_token_ids", 5, "Sequence[int] | None"),
        ("bad_words_ids", [1, 2], "Sequence[Sequence[int]] | None"),
        ("logit_bias", {"5": 1.0}, "Mapping[int, float] | Sequence[tuple[int, float]] | None"),
        ("exponential_decay_length_penalty", 5, "tuple[int, float] | None"),
        ("resume_from", [5, 6], "Mapping[int, Sequence[int]] | None"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_type_that_is_wanted(
    name: str, value: object, expected: str
) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(TypeError, match=re.escape(f"{name} must be {expected}, not {value!r}")):
        generate_request("hi", **options)


def test_a_long_value_is_not_repeated_whole() -> None:
    options: dict[str, Any] = {"suppress_tokens": ["x"] * 65_536}
    with pytest.raises(TypeError) as caught:
        generate_request("hi", **options)
    assert len(str(caught.value)) < 200


def test_biases_are_a_mapping_or_pairs() -> None:
    mapping = generate_request("hi", logit_bias={7: -1.0, 5: 2.0})
    assert mapping == generate_request("hi", logit_bias=[(5, 2.0), (7, -1.0)])
    assert dict(mapping.generation_config.logit_bias) == {5: 2.0, 7: -1.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (False, generation_pb2.EARLY_STOPPING_HEURISTIC),
        (True, generation_pb2.EARLY_STOPPING_FIRST),
        ("never", generation_pb2.EARLY_STOPPING_NEVER),
    ],
)
def test_early_stopping_has_the_three_values_of_transformers(value: EarlyStopping, expected: int) -> None:
    assert generate_request("hi", early_stopping=value).generation_config.early_stopping == expected


def test_a_misspelled_option_is_refused() -> None:
    misspelled: dict[str, Any] = {"temprature": 1.0}
    with pytest.raises(TypeError, match="temprature"):
        generate_request("hi", **misspelled)


@pytest.mark.parametrize(("stop", "expected"), [((), []), ("END", ["END"]), (["a", "b"], ["a", "b"])])
def test_one_stop_sequence_may_be_a_string(stop: str | Sequence[str], expected: list[str]) -> None:
    assert list(generate_request("hi", stop=stop).stop_sequences) == expected


def test_nothing_is_sent_that_was_not_given() -> None:
    nothing = cast("GenerateOptions", dict.fromkeys(GenerateOptions.__annotations__))
    assert generate_request("hi") == generate_request("hi", **nothing) == generation_pb2.GenerateRequest(text="hi")


def test_every_option_takes_none_by_its_type() -> None:
    hints = get_type_hints(GenerateOptions)
    assert [name for name, hint in hints.items() if type(None) not in get_args(hint)] == []


def test_mappings_of_other_libraries_are_messages_whole() -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "1 + 2?"}]},
        {"role": "assistant", "content": None, "tool_calls": [called], "reasoning_content": "I add."},
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
    ]
    ours = [
        Message("user", ["What is", "1 + 2?"]),
        Message("assistant", None, tool_calls=[ToolCall("add", {"b": 2, "a": 1}, "c1")], reasoning="I add."),
        Message("tool", "3", name="add", tool_call_id="c1"),
    ]
    assert generate_request(turns) == generate_request(ours)
    call = generate_request(turns).chat.messages[1].tool_calls[0]
    assert (call.id, call.function.name, call.function.arguments_json) == ("c1", "add", '{"b": 2, "a": 1}')


def test_tools_keep_the_order_of_their_keys() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "number"}}}
    mapping = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": schema}}
    request = generate_request([Message("user", "hi")], tools=[mapping])
    assert request == generate_request([Message("user", "hi")], tools=[Tool("add", "Adds.", schema)])
    assert request.chat.tools[0].function.parameters_json == json.dumps(schema)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tools": [{"type": "function", "function": {"title": "add"}}]}, TypeError, "tools must be"),
        ({"tools": [{"name": "add"}]}, TypeError, "tools must be"),
        ({"tool_choice": "required"}, ValueError, "tool_choice: must be 'auto' or 'none', not 'required'"),
        ({"ignored_defaults": "stop"}, TypeError, "ignored_defaults must be"),
        ({"max_time": float("inf")}, ValueError, "max_time: must be a number of seconds, not inf"),
        ({"max_time": float("nan")}, ValueError, "max_time: must be a number of seconds, not nan"),
    ],
    ids=str,
)
def test_what_a_chat_option_cannot_be_is_named(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        generate_request([Message("user", "hi")], **options)


@pytest.mark.parametrize("prompt", ["hi", [1, 2]], ids=str)
def test_options_of_a_chat_need_a_chat(prompt: Prompt) -> None:
    with pytest.raises(ValueError, match="continue_last_message: needs a prompt of chat messages"):
        generate_request(prompt, continue_last_message=True)


def test_defaults_to_ignore_are_named_as_options_are() -> None:
    names = ["suppress_tokens", "stop", "*"]
    assert list(generate_request("hi", ignored_defaults=names).ignored_defaults.paths) == [
        "generation_config.suppress_tokens",
        "stop_sequences",
        "generation_config",
        "stop_sequences",
    ]
