"""From prompts and options to the messages that the client sends."""

import inspect
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsIndex, Unpack

from textserve.v1 import generation_pb2, model_pb2

from ..types.generation_config import EarlyStopping
from ..types.options import GenerateOptions
from ..types.values import Message, Prompt

EARLY_STOPPING: Mapping[EarlyStopping, "generation_pb2.EarlyStopping.ValueType"] = MappingProxyType(
    {
        False: generation_pb2.EARLY_STOPPING_HEURISTIC,
        True: generation_pb2.EARLY_STOPPING_FIRST,
        "never": generation_pb2.EARLY_STOPPING_NEVER,
    }
)

_CONFIG_FIELDS = frozenset(generation_pb2.GenerationConfig.DESCRIPTOR.fields_by_name)
_OUTPUT_FIELDS = frozenset(generation_pb2.OutputOptions.DESCRIPTOR.fields_by_name)
_PROMPT = "a prompt is a str, a sequence of Message (or of mappings with role and content) or a sequence of int"


def generate_request(prompt: Prompt, **options: Unpack[GenerateOptions]) -> generation_pb2.GenerateRequest:
    """Builds the request; `GenerateOptions` says what each option means.

    TypeError or ValueError, naming the option, for what the request's fields cannot hold; ranges are checked by the
    server.
    """
    request = generation_pb2.GenerateRequest()
    for name, value in options.items():
        _set(request, name, value)
    _set_prompt(request, prompt)
    return request


def models_request() -> model_pb2.ListModelsRequest:
    """Asks for the models."""
    return model_pb2.ListModelsRequest()


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


_ENCODERS: Mapping[str, Callable[[Any], object]] = MappingProxyType(
    {
        "resume_from": _resume_from,
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
    """A message, from one of ours or from a mapping. protobuf would take None for no role, or no content."""
    match item:
        case Message(role=role, content=content):
            pass
        case {"role": role, "content": content, **others} if not others:
            pass
        case Mapping():
            raise ValueError(f"a message has the keys 'role' and 'content', not {', '.join(map(repr, item)) or 'none'}")
        case _:
            raise TypeError(f"{_PROMPT}; among its messages it contains {type(item).__name__}")
    for name, text in (("role", role), ("content", content)):
        if not isinstance(text, str):
            raise TypeError(f"the {name} of a message must be a str, not {reprlib.repr(text)}")
    return generation_pb2.ChatMessage(role=role, content=content)


def _token_id(item: object) -> int:
    """A token id of any integer type, NumPy's and PyTorch's scalars included."""
    if isinstance(item, SupportsIndex):
        return operator.index(item)
    raise TypeError(f"{_PROMPT}; it contains {type(item).__name__}")
