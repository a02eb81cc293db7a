"""Checks a prompt, of whatever form, before its tokens are known. Pure, as `validation`, which checks all the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..domain.errors import Violation, out_of_range, quoted
from ..domain.generation_config import id_list_violations
from ..domain.request import (
    TOOL_CHOICE_NONE,
    ChatPrompt,
    Message,
    ModelFacts,
    Request,
    TemplateFacts,
    TextPrompt,
    TokenPrompt,
    json_object,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CHAT_MESSAGES = 1024
MAX_CONTENT_PARTS = 1024
MAX_TOOLS = 128
MAX_TOOL_CALLS = 128
MAX_TEMPLATE_ARGUMENT_BYTES = 16_384
"""As protobuf encodes them."""
MAX_JSON_BYTES = 65_536
"""Of one text: it is parsed in one go, and all other threads wait meanwhile."""

MAX_PROMPT_IDS = 1 << 20
"""Ids of a prompt, or of an output that is gone on behind, whatever is cut off and however long the context is."""

# More text than this for each token of the context is not worth tokenizing: real text has 2 to 6 bytes a token. It is
# refused even where all but its end would be cut off.
MAX_BYTES_PER_TOKEN = 64


def prompt_violations(request: Request, facts: ModelFacts, template: TemplateFacts) -> Iterator[Violation]:
    """What is wrong with the prompt before its tokens are known."""
    match request.prompt:
        case None:
            yield Violation("prompt", "REQUIRED", "one of text, chat and tokens must be set")
        case TextPrompt(text):
            yield from _text_violations(text, facts)
        case ChatPrompt():
            yield from _chat_violations(request.prompt, facts, template)
        case TokenPrompt():
            yield from _token_violations(request.prompt, request.truncate_prompt, facts)


def _text_violations(text: str, facts: ModelFacts) -> Iterator[Violation]:
    if not text:
        yield Violation("text", "REQUIRED", "must not be empty")
    yield from _size_violations("text", len(text.encode()), facts)


def _chat_violations(prompt: ChatPrompt, facts: ModelFacts, template: TemplateFacts) -> Iterator[Violation]:
    if not template.is_there:
        yield Violation("chat", "NO_CHAT_TEMPLATE", "the model has no chat template")
    if not 1 <= len(prompt.messages) <= MAX_CHAT_MESSAGES:
        count = len(prompt.messages)
        yield out_of_range("chat.messages", f"must be 1 to {MAX_CHAT_MESSAGES} messages, are {count}")
    too_large = list(_size_violations("chat", _chat_bytes(prompt), facts))
    yield from too_large
    if too_large:
        return  # what is in it is not worth looking at
    for index, message in enumerate(prompt.messages[:MAX_CHAT_MESSAGES]):
        yield from _message_violations(f"chat.messages[{index}]", message)
    yield from _tool_violations(prompt, template)
    if prompt.tool_choice not in range(TOOL_CHOICE_NONE + 1):
        yield out_of_range("chat.tool_choice", f"must be a value that the proto names, is {prompt.tool_choice}")
    yield from _argument_violations(prompt)
    if prompt.continues_last and prompt.messages:
        yield from _continuation_violations(prompt.messages[-1], f"chat.messages[{len(prompt.messages) - 1}]")


def _chat_bytes(prompt: ChatPrompt) -> int:
    """Bytes of all the texts of a conversation."""
    texts = [json.dumps(dict(prompt.template_arguments))]
    for tool in prompt.tools:
        texts += tool.name, tool.description, tool.parameters_json
    for message in prompt.messages:
        texts += message.role, message.name, message.tool_call_id, message.reasoning
        texts += (message.content or "",) if isinstance(message.content, str | None) else map(str, message.content)
        for call in message.tool_calls:
            texts += call.call_id, call.name, call.arguments_json
    return sum(len(text.encode()) for text in texts)


def _message_violations(field: str, message: Message) -> Iterator[Violation]:
    if not message.role:
        yield Violation(f"{field}.role", "REQUIRED", "must not be empty")
    if isinstance(message.content, tuple):
        if not 1 <= len(message.content) <= MAX_CONTENT_PARTS:
            count = len(message.content)
            yield out_of_range(f"{field}.parts.parts", f"must be 1 to {MAX_CONTENT_PARTS} parts, are {count}")
        for index, part in enumerate(message.content[:MAX_CONTENT_PARTS]):
            if part is None:
                yield Violation(f"{field}.parts.parts[{index}].part", "REQUIRED", "text must be set")
    if len(message.tool_calls) > MAX_TOOL_CALLS:
        yield out_of_range(
            f"{field}.tool_calls", f"must be at most {MAX_TOOL_CALLS} calls, are {len(message.tool_calls)}"
        )
    for index, call in enumerate(message.tool_calls[:MAX_TOOL_CALLS]):
        path = f"{field}.tool_calls[{index}].function"
        if not call.name:
            yield Violation(f"{path}.name", "REQUIRED", "must not be empty")
        yield from _json_violations(f"{path}.arguments_json", call.arguments_json)


def _tool_violations(prompt: ChatPrompt, template: TemplateFacts) -> Iterator[Violation]:
    if len(prompt.tools) > MAX_TOOLS:
        yield out_of_range("chat.tools", f"must be at most {MAX_TOOLS}, are {len(prompt.tools)}")
    if prompt.tools and prompt.tool_choice != TOOL_CHOICE_NONE and template.is_there and not template.takes_tools:
        yield Violation("chat.tools", "NO_TOOLS", "the model's chat template knows no tools")
    for index, tool in enumerate(prompt.tools[:MAX_TOOLS]):
        path = f"chat.tools[{index}].function"
        if not tool.name:
            yield Violation(f"{path}.name", "REQUIRED", "must not be empty")
        yield from _json_violations(f"{path}.parameters_json", tool.parameters_json)


def _json_violations(field: str, text: str) -> Iterator[Violation]:
    if (size := len(text.encode())) > MAX_JSON_BYTES:
        yield out_of_range(field, f"must have at most {MAX_JSON_BYTES} bytes, has {size}")
        return
    try:
        json_object(text)
    except ValueError as error:
        yield Violation(field, "INVALID_JSON", f"must be a JSON object: {error}")


TAKEN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})
"""Of a chat template, by what else a request says, or by nobody."""


def _argument_violations(prompt: ChatPrompt) -> Iterator[Violation]:
    for name in prompt.template_arguments:
        if name in TAKEN_VARIABLES:
            yield Violation("chat.template_arguments", "TAKEN_NAME", f"must not have {quoted(name)}")
        elif not name.isidentifier():
            yield Violation("chat.template_arguments", "INVALID_NAME", f"has {quoted(name)}, which is no name in Jinja")


def _continuation_violations(last: Message, field: str) -> Iterator[Violation]:
    if last.role != "assistant":
        yield Violation(
            "chat.continue_last_message",
            "CONTRADICTION",
            f"the last message must be the assistant's, is {quoted(last.role)}'s",
        )
    if last.content is None:
        yield Violation(f"{field}.content", "REQUIRED", "must be set, for it is to be continued")


def _token_violations(prompt: TokenPrompt, truncation: int | None, facts: ModelFacts) -> Iterator[Violation]:
    if not prompt.ids:
        yield Violation("tokens.ids", "REQUIRED", "must have at least one id")
    elif (kept := kept_count(len(prompt.ids), truncation)) >= facts.context_length:
        yield Violation("tokens.ids", "PROMPT_TOO_LONG", too_long(kept, facts.context_length))
    else:
        # What is cut off is not looked at.
        yield from id_list_violations("tokens.ids", prompt.ids, facts.vocab_size, start=len(prompt.ids) - kept)


def kept_count(prompt_token_count: int, truncation: int | None) -> int:
    """Tokens of a prompt that are kept. A truncation out of range, which is another violation, keeps all."""
    return prompt_token_count if truncation is None or truncation < 1 else min(prompt_token_count, truncation)


def _size_violations(field: str, size_bytes: int, facts: ModelFacts) -> Iterator[Violation]:
    limit = facts.context_length * MAX_BYTES_PER_TOKEN
    if size_bytes > limit:
        yield Violation(
            field,
            "PROMPT_TOO_LONG",
            f"the prompt has {size_bytes} bytes; more than {limit} are not taken for a context of"
            f" {facts.context_length} tokens",
        )


def too_long(count: int, limit: int) -> str:
    return f"the prompt has {count} tokens; the context of {limit} tokens must hold it and at least one token more"
