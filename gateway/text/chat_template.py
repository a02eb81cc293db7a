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
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jinja2.parser import Parser

    from ..domain.request import Message

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

    Templates see `messages` (dicts with `role` and `content`), `add_generation_prompt` (true), `tools` and `documents`
    (none), the named special tokens, and the functions that transformers gives them.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compiles a template.

        Args:
            source: The Jinja source.
            special_tokens: Variables of the template, such as bos_token to "<s>".

        Raises:
            TemplateError: The source is not a Jinja template.
        """
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, *_PYTHON_ERRORS) as error:
            raise TemplateError(f"the model's chat template is broken: {_describe(error)}") from error
        self._special_tokens = dict(special_tokens)

    def render(self, turns: Sequence[Message]) -> str:
        """The prompt for a conversation of at least one turn, with the assistant's turn opened.

        Raises:
            TemplateError: The template refuses the conversation, or fails on it.
        """
        if not turns:
            raise TemplateError("a chat needs at least one message")
        try:
            return self._template.render(self._variables(turns))
        except _RefusalError as error:
            raise TemplateError(f"the model's chat template refuses the messages: {error.message}") from error
        except (jinja2.TemplateError, *_PYTHON_ERRORS) as error:
            raise TemplateError(f"the model's chat template fails on the messages: {_describe(error)}") from error

    def _variables(self, turns: Sequence[Message]) -> dict[str, object]:
        return {
            **self._special_tokens,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }


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
