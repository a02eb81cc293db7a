"""Every bad value is named by its path, all of them at once; every good one passes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.effective import resolve
from gateway.limits import (
    MAX_BYTES_PER_TOKEN,
    MAX_CHAT_MESSAGES,
    config_violations,
    length_violations,
    request_violations,
    valid_part,
)
from gateway.request import ChatPrompt, GenerationConfig, Message, ModelFacts, Prompt, Request, TextPrompt, TokenPrompt

FACTS = ModelFacts(
    name="tutor",
    architecture="FakeForCausalLM",
    context_length=100,
    vocab_size=50,
    quantization="nf4",
    quantized_share=0.5,
    fingerprint="f",
    generation_defaults=GenerationConfig(),
    eos_token_ids=(1,),
    tokenizer_sha256="h",
)
GOOD = Request(TextPrompt("hello"))


def fields(request: Request, *, has_chat_template: bool = True) -> list[str]:
    return [violation.field for violation in request_violations(request, FACTS, has_chat_template=has_chat_template)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("temperature", "top_p", "min_p", "repetition_penalty") for value in (math.nan,)),
        *((name, value) for name in ("temperature", "top_p", "min_p", "repetition_penalty") for value in (math.inf,)),
        *((name, value) for name in ("temperature", "top_p", "min_p", "repetition_penalty") for value in (-math.inf,)),
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 100.1),
        ("top_k", -1),
        ("seed", -1),
        ("max_new_tokens", 0),
        ("max_new_tokens", -5),
        ("max_new_tokens", 100),
        ("max_new_tokens", 2**31 - 1),
    ],
)
def test_a_value_out_of_range_is_named_by_its_path(name: str, value: float) -> None:
    config = GenerationConfig(**{name: value})  # type: ignore[arg-type]

    assert fields(Request(GOOD.prompt, config=config)) == [f"generation_config.{name}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", 100.0),
        ("top_p", 1.0),
        ("top_p", 1e-9),
        ("min_p", 0.0),
        ("min_p", 1.0),
        ("repetition_penalty", 100.0),
        ("top_k", 0),
        ("top_k", 2**31 - 1),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("max_new_tokens", 1),
        ("max_new_tokens", 99),
    ],
)
def test_the_ends_of_a_range_are_allowed(name: str, value: float) -> None:
    config = GenerationConfig(**{name: value})  # type: ignore[arg-type]

    assert fields(Request(GOOD.prompt, config=config)) == []


def test_temperature_0_contradicts_do_sample() -> None:
    config = GenerationConfig(temperature=0.0, do_sample=True)

    assert fields(Request(GOOD.prompt, config=config)) == ["generation_config.do_sample"]


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

    violations = list(length_violations(prompt_token_count, "text", config, FACTS))

    assert [violation.field for violation in violations] == ([field] if field else [])


def test_a_prompt_that_is_too_long_is_told_both_numbers() -> None:
    (violation,) = length_violations(123, "text", GenerationConfig(), FACTS)

    assert violation.reason == "PROMPT_TOO_LONG"
    assert "123 tokens" in violation.description
    assert "100 tokens" in violation.description


def test_the_valid_part_of_a_models_config_has_no_violations() -> None:
    valid, violations = valid_part(GenerationConfig(temperature=math.nan, top_k=7, top_p=0.0))

    assert valid == GenerationConfig(top_k=7)
    assert {violation.field for violation in violations} == {"temperature", "top_p"}


@given(
    st.builds(
        GenerationConfig,
        max_new_tokens=st.none() | st.integers(-5, 300),
        do_sample=st.none() | st.booleans(),
        temperature=st.none() | st.floats(),
        top_k=st.none() | st.integers(-2, 100),
        top_p=st.none() | st.floats(),
        min_p=st.none() | st.floats(),
        repetition_penalty=st.none() | st.floats(),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    ),
    st.integers(1, 99),
)
def test_what_passes_resolves_to_what_a_worker_takes(requested: GenerationConfig, prompt_token_count: int) -> None:
    violations = [
        *request_violations(Request(GOOD.prompt, config=requested), FACTS, has_chat_template=False),
        *length_violations(prompt_token_count, "text", requested, FACTS),
    ]
    if violations:
        return
    effective = resolve(requested, GenerationConfig(), room=100 - prompt_token_count, seed=5)

    assert 1 <= effective.max_new_tokens <= 100 - prompt_token_count
    assert not list(config_violations(GenerationConfig(**{name: getattr(effective, name) for name in _NAMES})))
    assert not effective.do_sample or effective.temperature > 0


_NAMES = (
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
)
