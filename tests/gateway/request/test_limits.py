"""Every bad value is named by its path, all of them at once; every good one passes."""

import math

import pytest

from gateway.domain.generation_config import GenerationConfig
from gateway.domain.request import ChatPrompt, Message, OutputOptions, Prompt, Request, TextPrompt, TokenPrompt
from gateway.request.prompt_validation import MAX_BYTES_PER_TOKEN, MAX_CHAT_MESSAGES
from gateway.request.validation import length_violations, output_room
from tests.gateway.requests import FACTS, GOOD, fields


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (None, "prompt"),
        (TextPrompt(""), "text"),
        (TextPrompt("é" * (FACTS.context_length * MAX_BYTES_PER_TOKEN // 2 + 1)), "text"),
        (ChatPrompt(()), "chat.messages"),
        (ChatPrompt((Message("user", ""),) * (MAX_CHAT_MESSAGES + 1)), "chat.messages"),
        (ChatPrompt((Message("user", "a"), Message("", "b"))), "chat.messages[1].role"),
        (ChatPrompt((Message("user", "a" * FACTS.context_length * MAX_BYTES_PER_TOKEN),)), "chat"),
        (TokenPrompt(()), "tokens.ids"),
        (TokenPrompt((0,) * 100), "tokens.ids"),
        (TokenPrompt((0, 49, 50)), "tokens.ids[2]"),
        (TokenPrompt((0, -1)), "tokens.ids[1]"),
        (TokenPrompt((0,) * 99 + (50,)), "tokens.ids"),
    ],
)
def test_a_bad_prompt_is_named_by_its_path(prompt: Prompt | None, field: str) -> None:
    assert fields(Request(prompt)) == [field]


def test_chat_needs_a_chat_template() -> None:
    request = Request(ChatPrompt((Message("user", "hello"),)))

    assert fields(request) == []
    assert fields(request, has_chat_template=False) == ["chat"]


@pytest.mark.parametrize(
    ("stop_sequences", "expected"),
    [
        (("a",) * 16, []),
        (("a",) * 1000, ["stop_sequences"]),
        (("a", ""), ["stop_sequences[1]"]),
        (("a" * 256,), []),
        (("é" * 129,), ["stop_sequences[0]"]),
    ],
)
def test_stop_sequences_are_few_short_and_not_empty(stop_sequences: tuple[str, ...], expected: list[str]) -> None:
    assert fields(Request(GOOD.prompt, stop_sequences=stop_sequences)) == expected


def test_all_violations_come_at_once() -> None:
    request = Request(
        TokenPrompt((99,)),
        config=GenerationConfig(temperature=math.nan, top_k=-1, max_new_tokens=0),
        stop_sequences=("",),
    )

    assert set(fields(request)) == {
        "tokens.ids[0]",
        "generation_config.temperature",
        "generation_config.top_k",
        "generation_config.max_new_tokens",
        "stop_sequences[0]",
    }


@pytest.mark.parametrize(
    ("prompt_token_count", "max_new_tokens", "field"),
    [
        (99, None, None),
        (99, 1, None),
        (100, None, "text"),
        (10, 90, None),
        (10, 91, "generation_config.max_new_tokens"),
        (0, None, "text"),
    ],
)
def test_prompt_and_explicit_output_must_fit_into_the_context(
    prompt_token_count: int, max_new_tokens: int | None, field: str | None
) -> None:
    config = GenerationConfig(max_new_tokens=max_new_tokens)

    violations = list(length_violations(prompt_token_count, "text", Request(GOOD.prompt, config=config), FACTS))

    assert [violation.field for violation in violations] == ([field] if field else [])


@pytest.mark.parametrize(("max_new_tokens", "min_new_tokens"), [(None, 91), (95, 91)])
def test_an_explicit_least_output_must_fit_into_the_context(max_new_tokens: int | None, min_new_tokens: int) -> None:
    config = GenerationConfig(max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens)

    violations = list(length_violations(10, "text", Request(GOOD.prompt, config=config), FACTS))

    assert {violation.reason for violation in violations} == {"CONTEXT_EXCEEDED"}
    assert violations[-1].field == "generation_config.min_new_tokens"


@pytest.mark.parametrize(
    ("num_beams", "max_new_tokens", "fits"),
    [(3, 40, True), (3, 41, False), (8, 8, True), (8, 9, False), (8, None, True), (1, 90, True)],
)
def test_the_beams_of_a_search_must_fit_into_a_workers_memory_together(
    num_beams: int, max_new_tokens: int | None, *, fits: bool
) -> None:
    config = GenerationConfig(num_beams=num_beams, max_new_tokens=max_new_tokens)

    violations = list(length_violations(10, "text", Request(GOOD.prompt, config=config), FACTS))

    assert [violation.reason for violation in violations] == ([] if fits else ["POOL_EXCEEDED"])
    assert fits or "150" in violations[0].description


def test_a_default_output_is_clipped_to_what_the_beams_have_room_for() -> None:
    assert output_room(10, GenerationConfig(num_beams=5), FACTS) == 20
    assert output_room(10, GenerationConfig(), FACTS) == 90


@pytest.mark.parametrize(("prompt_token_count", "expected"), [(40, []), (41, ["output_options.prompt_logprobs"])])
def test_log_probabilities_of_a_prompt_have_a_limit_of_their_own(prompt_token_count: int, expected: list[str]) -> None:
    request = Request(GOOD.prompt, output=OutputOptions(prompt_logprobs=True))

    violations = list(length_violations(prompt_token_count, "text", request, FACTS))

    assert [violation.field for violation in violations] == expected
    assert not list(length_violations(prompt_token_count, "text", GOOD, FACTS))
    assert all("41 tokens" in each.description and "40 tokens" in each.description for each in violations)


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [(None, ["tokens.ids"]), (100, ["tokens.ids"]), (99, []), (1, []), (0, ["tokens.ids", "truncate_prompt"])],
)
def test_a_prompt_that_is_truncated_may_be_longer_than_the_context(truncation: int | None, expected: list[str]) -> None:
    assert fields(Request(TokenPrompt((0,) * 1000), truncate_prompt=truncation)) == expected


def test_more_text_than_is_worth_tokenizing_is_refused_even_if_it_would_be_truncated() -> None:
    text = "a" * (FACTS.context_length * MAX_BYTES_PER_TOKEN + 1)

    assert fields(Request(TextPrompt(text), truncate_prompt=5)) == ["text"]


@pytest.mark.parametrize(("top_logprobs", "expected"), [(-1, True), (0, False), (20, False), (21, True)])
def test_at_most_20_alternatives_are_reported(top_logprobs: int, expected: bool) -> None:  # noqa: FBT001
    output = OutputOptions(logprobs=True, top_logprobs=top_logprobs)

    assert fields(Request(GOOD.prompt, output=output)) == ["output_options.top_logprobs"] * expected


def test_a_prompt_that_is_too_long_is_told_both_numbers() -> None:
    (violation,) = length_violations(123, "text", GOOD, FACTS)

    assert violation.reason == "PROMPT_TOO_LONG"
    assert "123 tokens" in violation.description
    assert "100 tokens" in violation.description
