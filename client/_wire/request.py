"""From prompts and options to the messages that the client sends."""

import inspect
import json
import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsIndex, Unpack

from google.protobuf import field_mask_pb2, struct_pb2
from google.protobuf.duration_pb2 import Duration

from textserve.v1 import generation_pb2, model_pb2, tokenization_pb2

from ..types.generation_config import EarlyStopping
from ..types.options import GenerateOptions, TokenizeOptions, ToolChoice
from ..types.values import Message, Prompt, Tool, ToolCall

EARLY_STOPPING: Mapping[EarlyStopping, "generation_pb2.EarlyStopping.ValueType"] = MappingProxyType(
    {
        False: generation_pb2.EARLY_STOPPING_HEURISTIC,
        True: generation_pb2.EARLY_STOPPING_FIRST,
        "never": generation_pb2.EARLY_STOPPING_NEVER,
    }
)

_CONFIG_FIELDS = frozenset(generation_pb2.GenerationConfig.DESCRIPTOR.fields_by_name)
_OUTPUT_FIELDS = frozenset(generation_pb2.OutputOptions.DESCRIPTOR.fields_by_name)
_CHAT_FIELDS = frozenset(generation_pb2.ChatPrompt.DESCRIPTOR.fields_by_name) - {"messages"}
_PROMPT = "a prompt is a str, a sequence of Message (or of mappings with role and content) or a sequence of int"


def generate_request(prompt: Prompt, **options: Unpack[GenerateOptions]) -> generation_pb2.GenerateRequest:
    """Builds the request; `GenerateOptions` says what each option means.

    TypeError or ValueError, naming the option, for what the request's fields cannot hold; ranges are checked by the
    server.
    """
    request = generation_pb2.GenerateRequest()
    _set_prompt(request, prompt)
    for name, value in options.items():
        _set(request, name, value)
    return request


def estimate_request(prompt: Prompt, **options: Unpack[GenerateOptions]) -> generation_pb2.EstimateGenerateRequest:
    """Builds the request; raises as `generate_request`."""
    return generation_pb2.EstimateGenerateRequest(request=generate_request(prompt, **options))


def tokenize_request(
    prompt: Prompt, *, pieces: bool, rendered_prompt: bool, **options: Unpack[TokenizeOptions]
) -> tokenization_pb2.TokenizeRequest:
    """Builds the request; raises as `generate_request`."""
    if unknown := options.keys() - TokenizeOptions.__annotations__.keys():
        raise TypeError(f"{min(unknown)!r} is not an option: `TokenizeOptions` lists them")
    asked = generate_request(prompt, **options)
    request = tokenization_pb2.TokenizeRequest(
        model=asked.model, include_pieces=pieces, include_rendered_prompt=rendered_prompt
    )
    match asked.WhichOneof("prompt"):
        case "text":
            request.text = asked.text
        case "chat":
            request.chat.CopyFrom(asked.chat)
        case _:
            raise TypeError("token ids are tokens already")
    return request


def detokenize_request(
    token_ids: Sequence[int], *, skip_special_tokens: bool, model: str
) -> tokenization_pb2.DetokenizeRequest:
    """Builds the request."""
    return tokenization_pb2.DetokenizeRequest(
        model=model, token_ids=map(_token_id, token_ids), skip_special_tokens=skip_special_tokens
    )


def model_request(name: str) -> model_pb2.GetModelRequest:
    """Builds the request."""
    return model_pb2.GetModelRequest(name=name)


def models_request(page_token: str = "") -> model_pb2.ListModelsRequest:
    """Asks for a page of the models; the first one without a token."""
    return model_pb2.ListModelsRequest(page_token=page_token)


def _set(request: generation_pb2.GenerateRequest, name: str, value: object) -> None:
    if name not in GenerateOptions.__annotations__:
        raise TypeError(f"{name!r} is not an option: `GenerateOptions` lists them")
    if value is None:
        return
    try:
        _merge(request, name, value)
    except TypeError as error:
        raise TypeError(f"{name} must be {_type_of(name)}, not {reprlib.repr(value)}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _merge(request: generation_pb2.GenerateRequest, name: str, value: object) -> None:
    """Sets the field of an option. It has the option's name, and this name is in one of three messages only."""
    encode = _ENCODERS.get(name)
    field: dict[str, Any] = {name: encode(value) if encode else value}
    if name in _CONFIG_FIELDS:
        request.generation_config.MergeFrom(generation_pb2.GenerationConfig(**field))
    elif name in _OUTPUT_FIELDS:
        request.output_options.MergeFrom(generation_pb2.OutputOptions(**field))
    elif name in _CHAT_FIELDS:
        if request.WhichOneof("prompt") != "chat":
            raise ValueError("needs a prompt of chat messages")
        request.chat.MergeFrom(generation_pb2.ChatPrompt(**field))
    elif name == "stop":
        request.stop_sequences.extend(field[name])
    else:
        request.MergeFrom(generation_pb2.GenerateRequest(**field))


def _type_of(name: str) -> str:
    annotation = inspect.formatannotation(GenerateOptions.__annotations__[name])
    return annotation.replace("collections.abc.", "").replace("typing.", "")


def _texts(stop: str | Sequence[str]) -> Sequence[str]:
    return [stop] if isinstance(stop, str) else stop


def _token_sequences(words: Sequence[Sequence[int]]) -> list[generation_pb2.TokenSequence]:
    return [generation_pb2.TokenSequence(ids=ids) for ids in words]


def _decay(penalty: tuple[int, float]) -> generation_pb2.ExponentialDecayLengthPenalty:
    start_index, factor = penalty
    return generation_pb2.ExponentialDecayLengthPenalty(start_index=start_index, factor=factor)


def _resume_from(candidates: Mapping[int, Sequence[int]]) -> generation_pb2.ResumeFrom:
    return generation_pb2.ResumeFrom(
        candidates=[
            generation_pb2.ResumedCandidate(candidate_index=index, token_ids=ids)
            for index, ids in dict(candidates).items()
        ]
    )


def _early_stopping(value: EarlyStopping) -> "generation_pb2.EarlyStopping.ValueType":
    if not isinstance(value, bool) and value != "never":
        raise ValueError(f"must be True, False or 'never', not {value!r}")
    return EARLY_STOPPING[value]


def _ignored(names: Sequence[str]) -> field_mask_pb2.FieldMask:
    if isinstance(names, str):
        raise TypeError("must be a list of names")
    paths = [path for name in names for path in _PATHS.get(name, (f"generation_config.{name}",))]
    return field_mask_pb2.FieldMask(paths=paths)


_PATHS = {"stop": ("stop_sequences",), "*": ("generation_config", "stop_sequences")}


def _duration(seconds: float) -> Duration:
    if not math.isfinite(seconds) or abs(seconds) > _MOST_SECONDS:
        raise ValueError(f"must be a number of seconds, not {seconds!r}")
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


_MOST_SECONDS = 315_576_000_000
"""10,000 years: more is no Duration."""

_TOOL_CHOICES: Mapping[ToolChoice, "generation_pb2.ToolChoice.ValueType"] = MappingProxyType(
    {"auto": generation_pb2.TOOL_CHOICE_AUTO, "none": generation_pb2.TOOL_CHOICE_NONE}
)


def _tool_choice(choice: ToolChoice) -> "generation_pb2.ToolChoice.ValueType":
    if choice not in _TOOL_CHOICES:
        raise ValueError(f"must be 'auto' or 'none', not {choice!r}")
    return _TOOL_CHOICES[choice]


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(dict(values))
    return struct


def _tools(tools: Sequence[Tool | Mapping[str, Any]]) -> list[generation_pb2.Tool]:
    return [_tool(each) for each in tools]


def _tool(item: Tool | Mapping[str, Any]) -> generation_pb2.Tool:
    match item:
        case Tool():
            tool = item
        case {"type": "function", "function": dict() as function} if len(item) == 2:
            # Fields of other names are no field of a Tool: TypeError.
            tool = Tool(**function)
        case _:
            raise TypeError("a tool is a Tool, or a mapping {'type': 'function', 'function': {'name': ...}}")
    declaration = generation_pb2.FunctionDeclaration(
        name=tool.name, description=tool.description, parameters_json=_json(tool.parameters)
    )
    return generation_pb2.Tool(function=declaration)


def _json(value: Mapping[str, Any] | str) -> str:
    """JSON text, of which the server says whether it is any."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_ENCODERS: Mapping[str, Callable[[Any], object]] = MappingProxyType(
    {
        "resume_from": _resume_from,
        "ignored_defaults": _ignored,
        "tools": _tools,
        "tool_choice": _tool_choice,
        "template_arguments": _struct,
        "max_time": _duration,
        "stop": _texts,
        "logit_bias": dict,
        "bad_words_ids": _token_sequences,
        "exponential_decay_length_penalty": _decay,
        "early_stopping": _early_stopping,
    }
)


def _set_prompt(request: generation_pb2.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
        return
    if isinstance(prompt, (bytes, bytearray, memoryview)):
        raise TypeError("a prompt is text, not bytes: decode it first")
    if isinstance(prompt, (Message, Mapping)):
        raise TypeError(f"{_PROMPT}, not one message by itself: put it into a list")
    if not isinstance(prompt, Iterable):
        raise TypeError(f"{_PROMPT}, not {reprlib.repr(prompt)}")
    items: list[object] = list(prompt)
    if not items:
        raise ValueError("the prompt is empty")
    if isinstance(items[0], (Message, Mapping)):
        request.chat.messages.extend(map(_message, items))
    else:
        request.tokens.ids.extend(map(_token_id, items))


def _message(item: object) -> generation_pb2.ChatMessage:
    """A message, from one of ours or from a mapping. protobuf would take None for no role."""
    match item:
        case Message():
            message = item
        case Mapping():
            message = _mapped(dict(item))
        case _:
            raise TypeError(f"{_PROMPT}; among its messages it contains {type(item).__name__}")
    if not isinstance(message.role, str):
        raise TypeError(f"the role of a message must be a str, not {reprlib.repr(message.role)}")
    written = generation_pb2.ChatMessage(
        role=message.role,
        name=message.name,
        tool_calls=[_tool_call(each) for each in message.tool_calls],
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning,
    )
    if isinstance(message.content, str):
        written.text = message.content
    elif message.content is not None:
        written.parts.parts.extend(map(_part, message.content))
    elif not message.tool_calls:
        raise TypeError("the content of a message must be a str, or a list of parts, unless it has tool_calls")
    return written


_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content")


def _mapped(item: dict[Any, Any]) -> Message:
    """The message of a mapping as other libraries have them."""
    if "role" not in item or not ({"content", "tool_calls"} & item.keys()) or not item.keys() <= set(_MESSAGE_KEYS):
        given = ", ".join(map(repr, item)) or "none"
        raise ValueError(f"a message has the keys 'role' and 'content', and may have {_MESSAGE_KEYS[2:]}, not {given}")
    return Message(
        role=item["role"],
        content=item.get("content"),
        name=item.get("name") or "",
        tool_calls=tuple(map(_called, item.get("tool_calls") or ())),
        tool_call_id=item.get("tool_call_id") or "",
        reasoning=item.get("reasoning_content") or item.get("reasoning") or "",
    )


def _called(item: ToolCall | Mapping[str, Any]) -> ToolCall:
    match item:
        case ToolCall():
            return item
        case {"function": {"name": name, "arguments": arguments}}:
            return ToolCall(name, arguments, item.get("id") or "")
    raise TypeError("a tool call is a ToolCall, or a mapping {'id': ..., 'function': {'name': ..., 'arguments': ...}}")


def _tool_call(call: ToolCall) -> generation_pb2.ToolCall:
    function = generation_pb2.FunctionCall(name=call.name, arguments_json=_json(call.arguments))
    return generation_pb2.ToolCall(id=call.id, function=function)


def _part(part: object) -> generation_pb2.ContentPart:
    match part:
        case str(text) | {"type": "text", "text": str(text)}:
            return generation_pb2.ContentPart(text=text)
    raise TypeError(f"a part of a message is a str, or {{'type': 'text', 'text': ...}}, not {reprlib.repr(part)}")


def _token_id(item: object) -> int:
    """A token id of any integer type, NumPy's and PyTorch's scalars included."""
    if isinstance(item, SupportsIndex):
        return operator.index(item)
    raise TypeError(f"{_PROMPT}; it contains {type(item).__name__}")
