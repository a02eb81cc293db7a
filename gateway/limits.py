"""Checks a request against the model that is to serve it. Pure: it returns what is wrong, and all of it at once."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from .errors import Violation
from .request import ChatPrompt, GenerationConfig, ModelFacts, Request, TextPrompt, TokenPrompt

MAX_STOP_SEQUENCES = 16
MAX_STOP_SEQUENCE_BYTES = 256
MAX_CHAT_MESSAGES = 1024
# More text than this for each token of the context is not worth tokenizing: real text has 2 to 6 bytes a token.
MAX_BYTES_PER_TOKEN = 64

_FLOAT_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value <= 100, "from 0 to 100"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "repetition_penalty": (lambda value: 0 < value <= 100, "above 0 and at most 100"),
}
_INT_MINIMA = {"max_new_tokens": 1, "top_k": 0, "seed": 0}


def request_violations(request: Request, facts: ModelFacts, *, has_chat_template: bool) -> list[Violation]:
    """Everything that can be found wrong before the prompt is tokenized."""
    return [
        *prompt_violations(request, facts, has_chat_template=has_chat_template),
        *(_in_config(violation) for violation in config_violations(request.config)),
        *_context_violations(request.config, facts),
        *_stop_violations(request.stop_sequences),
    ]


def config_violations(config: GenerationConfig) -> Iterator[Violation]:
    """Values out of their ranges, and values that contradict one another. Fields are named without a prefix."""
    for name, minimum in _INT_MINIMA.items():
        value: int | None = getattr(config, name)
        if value is not None and value < minimum:
            yield Violation(name, "OUT_OF_RANGE", f"must be at least {minimum}, is {value}")
    for name, (allowed, words) in _FLOAT_RANGES.items():
        number: float | None = getattr(config, name)
        if number is not None and not (math.isfinite(number) and allowed(number)):
            yield Violation(name, "OUT_OF_RANGE", f"must be {words}, is {number}")
    if config.temperature == 0 and config.do_sample:
        yield Violation("do_sample", "CONTRADICTION", "must not be true with temperature 0, which means greedy")


def valid_part(config: GenerationConfig) -> tuple[GenerationConfig, list[Violation]]:
    """A model's own config without the values that no request could set, and what is wrong with those."""
    violations = list(config_violations(config))
    return replace(config, **dict.fromkeys((violation.field for violation in violations), None)), violations


def prompt_violations(request: Request, facts: ModelFacts, *, has_chat_template: bool) -> Iterator[Violation]:
    """What is wrong with the prompt before its tokens are known."""
    match request.prompt:
        case None:
            yield Violation("prompt", "REQUIRED", "one of text, chat and tokens must be set")
        case TextPrompt(text):
            yield from _text_violations(text, facts)
        case ChatPrompt():
            yield from _chat_violations(request.prompt, facts, has_chat_template=has_chat_template)
        case TokenPrompt():
            yield from _token_violations(request.prompt, facts)


def length_violations(
    prompt_token_count: int, prompt_field: str, config: GenerationConfig, facts: ModelFacts
) -> Iterator[Violation]:
    """What is wrong with the prompt's length in tokens, alone and with an explicit max_new_tokens."""
    limit = facts.context_length
    if prompt_token_count < 1:
        yield Violation(prompt_field, "REQUIRED", "the prompt gives no token")
    elif prompt_token_count >= limit:
        yield Violation(prompt_field, "PROMPT_TOO_LONG", _too_long(prompt_token_count, limit))
    elif config.max_new_tokens is not None and prompt_token_count + config.max_new_tokens > limit:
        yield Violation(
            "generation_config.max_new_tokens",
            "CONTEXT_EXCEEDED",
            f"the prompt's {prompt_token_count} tokens and max_new_tokens {config.max_new_tokens} exceed the context"
            f" of {limit} tokens; at most {limit - prompt_token_count} can be generated",
        )


def _in_config(violation: Violation) -> Violation:
    return Violation(f"generation_config.{violation.field}", violation.reason, violation.description)


def _context_violations(config: GenerationConfig, facts: ModelFacts) -> Iterator[Violation]:
    asked, limit = config.max_new_tokens, facts.context_length
    if asked is not None and asked >= limit:
        yield Violation(
            "generation_config.max_new_tokens",
            "CONTEXT_EXCEEDED",
            f"max_new_tokens {asked} leaves no room for a prompt in the context of {limit} tokens",
        )


def _text_violations(text: str, facts: ModelFacts) -> Iterator[Violation]:
    if not text:
        yield Violation("text", "REQUIRED", "must not be empty")
    yield from _size_violations("text", len(text.encode()), facts)


def _chat_violations(prompt: ChatPrompt, facts: ModelFacts, *, has_chat_template: bool) -> Iterator[Violation]:
    if not has_chat_template:
        yield Violation("chat", "NO_CHAT_TEMPLATE", "the model has no chat template")
    if not 1 <= len(prompt.messages) <= MAX_CHAT_MESSAGES:
        count = len(prompt.messages)
        yield Violation("chat.messages", "OUT_OF_RANGE", f"must be 1 to {MAX_CHAT_MESSAGES} messages, are {count}")
    for index, message in enumerate(prompt.messages[:MAX_CHAT_MESSAGES]):
        if not message.role:
            yield Violation(f"chat.messages[{index}].role", "REQUIRED", "must not be empty")
    size = sum(len(message.role.encode()) + len(message.content.encode()) for message in prompt.messages)
    yield from _size_violations("chat", size, facts)


def _token_violations(prompt: TokenPrompt, facts: ModelFacts) -> Iterator[Violation]:
    if not prompt.ids:
        yield Violation("tokens.ids", "REQUIRED", "must have at least one id")
    elif len(prompt.ids) >= facts.context_length:
        yield Violation("tokens.ids", "PROMPT_TOO_LONG", _too_long(len(prompt.ids), facts.context_length))
    elif min(prompt.ids) < 0 or max(prompt.ids) >= facts.vocab_size:
        yield _first_bad_id(prompt, facts)


def _first_bad_id(prompt: TokenPrompt, facts: ModelFacts) -> Violation:
    index, bad = next((i, id_) for i, id_ in enumerate(prompt.ids) if not 0 <= id_ < facts.vocab_size)
    return Violation(f"tokens.ids[{index}]", "OUT_OF_RANGE", f"must be from 0 to {facts.vocab_size - 1}, is {bad}")


def _size_violations(field: str, size_bytes: int, facts: ModelFacts) -> Iterator[Violation]:
    limit = facts.context_length * MAX_BYTES_PER_TOKEN
    if size_bytes > limit:
        yield Violation(
            field,
            "PROMPT_TOO_LONG",
            f"the prompt has {size_bytes} bytes; more than {limit} are not taken for a context of"
            f" {facts.context_length} tokens",
        )


def _stop_violations(stop_sequences: tuple[str, ...]) -> Iterator[Violation]:
    if len(stop_sequences) > MAX_STOP_SEQUENCES:
        yield Violation(
            "stop_sequences", "OUT_OF_RANGE", f"must be at most {MAX_STOP_SEQUENCES}, are {len(stop_sequences)}"
        )
    for index, text in enumerate(stop_sequences[:MAX_STOP_SEQUENCES]):
        size = len(text.encode())
        if not 1 <= size <= MAX_STOP_SEQUENCE_BYTES:
            yield Violation(
                f"stop_sequences[{index}]",
                "OUT_OF_RANGE",
                f"must have 1 to {MAX_STOP_SEQUENCE_BYTES} bytes, has {size}",
            )


def _too_long(count: int, limit: int) -> str:
    return f"the prompt has {count} tokens; the context of {limit} tokens must hold it and at least one token more"
