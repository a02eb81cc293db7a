"""Prompts and options become requests without loss."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from client import Message, Prompt
from client.convert import generate_request


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
    assert [(each.role, each.content) for each in request.chat.messages] == [("system", "Be brief."), ("user", "")]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([0, 1, 42], [0, 1, 42]), ((0, 1), [0, 1]), (range(3), [0, 1, 2]), (cast("list[int]", [Integer()]), [42])],
)
def test_integers_of_any_type_become_token_ids(ids: Sequence[int], expected: list[int]) -> None:
    assert list(generate_request(ids).tokens.ids) == expected


@pytest.mark.parametrize("prompt", [b"text", ["text"], [1.5], [Message("user", "hi"), 1], [None], 5])
def test_a_prompt_of_another_type_is_refused(prompt: Prompt) -> None:
    with pytest.raises(TypeError):
        generate_request(prompt)


@pytest.mark.parametrize("prompt", [[], ()])
def test_an_empty_sequence_is_refused(prompt: Prompt) -> None:
    with pytest.raises(ValueError, match="empty"):
        generate_request(prompt)


@pytest.mark.parametrize("options", [{"seed": 2**63}, {"max_new_tokens": 2**31}, {"stop": "\udc80"}])
def test_a_value_that_no_field_can_hold_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        generate_request("hi", **options)


def test_a_misspelled_option_is_refused() -> None:
    misspelled: dict[str, Any] = {"temprature": 1.0}
    with pytest.raises(TypeError, match="temprature"):
        generate_request("hi", **misspelled)


@pytest.mark.parametrize(("stop", "expected"), [((), []), ("END", ["END"]), (["a", "b"], ["a", "b"])])
def test_one_stop_sequence_may_be_a_string(stop: str | Sequence[str], expected: list[str]) -> None:
    assert list(generate_request("hi", stop=stop).stop_sequences) == expected


def test_no_sampling_parameter_is_sent_that_was_not_given() -> None:
    assert not generate_request("hi").generation_config.ListFields()
