"""Chat messages to the prompt that a model was trained on: its own Jinja template, rendered as transformers does.

A template comes with a model and is code of a stranger. It runs in Jinja's immutable sandbox: it reaches no Python
internals, no files and no modules, changes nothing that outlives its rendering, and its `range` is bounded. The sandbox
does not bound its time and memory: whoever serves a model trusts its template that far.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ..domain.request import TOOL_CHOICE_NONE, json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jinja2.parser import Parser

    from ..domain.request import ChatPrompt, Function, Message, ToolCall

# What the code of a template can raise by itself, while it is compiled and while it runs.
_PYTHON_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class TemplateError(ValueError):
    """The chat template is missing, is broken, or refuses the messages. Its text is one sentence for the caller."""


class ChatTemplate:
    """A compiled chat template. Immutable; may be rendered in several threads at once.

    Templates see `messages` (dicts with `role`, `content` and what else a message has, under the names that
    transformers gives it), `tools`, `documents` (none), `add_generation_prompt` (true unless the last message is
    continued), the named special tokens, the request's own arguments, and the functions that transformers gives them.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compiles a template.

        Args:
            source: The Jinja source.
            special_tokens: Variables of the template, such as bos_token to "<s>".

        Raises:
            TemplateError: The source is not a Jinja template.
        """
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self.takes_tools = "tools" in meta.find_undeclared_variables(environment.parse(source))
            """Whether it looks at tools."""
        except (jinja2.TemplateError, *_PYTHON_ERRORS) as error:
            raise TemplateError(f"the model's chat template is broken: {_describe(error)}") from error
        self._special_tokens = dict(special_tokens)

    def render(self, chat: ChatPrompt) -> str:
        """The prompt for a conversation of at least one turn, with the assistant's turn opened, or its last left so.

        Raises:
            TemplateError: The template refuses the conversation, or fails on it, or leaves out what is to be continued.
        """
        if not chat.messages:
            raise TemplateError("a chat needs at least one message")
        try:
            rendered = self._template.render(self._variables(chat))
        except _RefusalError as error:
            raise TemplateError(f"the model's chat template refuses the messages: {error.message}") from error
        except (jinja2.TemplateError, *_PYTHON_ERRORS) as error:
            raise TemplateError(f"the model's chat template fails on the messages: {_describe(error)}") from error
        return _cut(rendered) if chat.continues_last else rendered

    def _variables(self, chat: ChatPrompt) -> dict[str, object]:
        messages = [_message(each) for each in chat.messages]
        if chat.continues_last:
            _mark_end(messages[-1])
        tools = [] if chat.tool_choice == TOOL_CHOICE_NONE else [_tool(each) for each in chat.tools]
        return {
            **self._special_tokens,
            **chat.template_arguments,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": not chat.continues_last,
        }


def _message(message: Message) -> dict[str, Any]:
    """A turn as transformers' templates know it."""
    content = message.content
    known: dict[str, Any] = {
        "role": message.role,
        "content": [{"type": "text", "text": part} for part in content] if isinstance(content, tuple) else content,
    }
    if message.name:
        known["name"] = message.name
    if message.tool_calls:
        known["tool_calls"] = [_tool_call(each) for each in message.tool_calls]
    if message.tool_call_id:
        known["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        # transformers gives it both names.
        known["reasoning_content"] = known["thinking"] = message.reasoning
    return known


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json_object(call.arguments_json)}
    return {"type": "function", "function": function} | ({"id": call.call_id} if call.call_id else {})


def _tool(tool: Function) -> dict[str, Any]:
    parameters = json_object(tool.parameters_json)
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


_END_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Behind what is to be continued, as transformers does it: with a space, to see whether the template strips texts."""


def _mark_end(message: dict[str, Any]) -> None:
    content = message["content"]
    if isinstance(content, list):
        content[-1]["text"] += _END_MARK
    else:
        message["content"] = (content or "") + _END_MARK


def _cut(rendered: str) -> str:
    """What is before the mark."""
    at = rendered.rfind(_END_MARK.strip())
    if at < 0:
        raise TemplateError("the model's chat template leaves out the message that is to be continued")
    is_kept = rendered.startswith(_END_MARK, at)
    return rendered[:at] if is_kept else rendered[:at].rstrip()


class _RefusalError(jinja2.TemplateError):
    """Raised by the template itself."""


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        # A call block, as in transformers, for the scope that it gives to variables.
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Callable[[], str]) -> str:
        return caller()


class _SafeNamespace(Namespace):
    """Jinja's `namespace`, closed to the names of Python's internals."""

    def __init__(self, /, *mappings: Any, **attributes: Any) -> None:  # noqa: ANN401 (whatever the template passes)
        for name in dict(*mappings, **attributes):
            _check_name(name)
        super().__init__(*mappings, **attributes)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _SafeDict:
    """`dict` as a function only: the type's own methods would change dicts behind the sandbox's back."""

    def __call__(self, /, *mappings: Any, **items: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict(*mappings, **items)

    def fromkeys(self, keys: Iterable[Any], value: object = None) -> dict[Any, object]:
        return dict.fromkeys(keys, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have an attribute {name!r}")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _raise_exception(message: object) -> NoReturn:
    raise _RefusalError(str(message))


def _strftime_now(time_format: str) -> str:
    return datetime.now().astimezone().strftime(time_format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 (the order in which templates may pass them)
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    # Jinja's own escapes HTML, which models have not been trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_SafeDict(), namespace=_SafeNamespace
    )
    return environment
