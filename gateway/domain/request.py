"""What a caller asks for, and what a model is, as plain values. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .generation_config import GenerationConfig
from .tenancy import Caller


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text, encoded with the special tokens that the tokenizer adds by itself."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant called."""

    call_id: str
    name: str
    arguments_json: str
    """A JSON object; empty for none."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. What is empty is not there, but for empty text."""

    role: str
    content: str | tuple[str | None, ...] | None
    """Text, text in parts, or nothing; a part without text is none that is known here."""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call."""

    name: str
    description: str
    parameters_json: str
    """A JSON object; empty for none."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, to be rendered with the model's chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Function, ...] = ()
    tool_choice: int = 0
    """As the proto numbers it."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Variables of the template."""
    continues_last: bool = False
    """Whether the model goes on with the last message, instead of beginning a turn."""


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What is known of a model's chat template."""

    is_there: bool
    takes_tools: bool = False


TOOL_CHOICE_NONE = 2
"""The proto's number for a model that is told of no tools."""


def json_object(text: str) -> dict[str, Any]:
    """The JSON object of a text; {} of an empty one. ValueError if it is none, or has what JSON has no numbers for."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(text or "{}", parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - it is a fault of the text
    return value


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids that are taken as they are."""

    ids: Sequence[int]


Prompt = TextPrompt | ChatPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What the answer contains beside the generated text."""

    echo: bool = False
    token_ids: bool = False
    skip_special_tokens: bool = True
    include_stop_sequence: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class ResumedCandidate:
    """What a caller holds of one candidate: all of its output tokens so far."""

    candidate_index: int
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a continuation, decoded but not yet checked."""

    prompt: Prompt | None
    model: str = ""
    config: GenerationConfig = field(default_factory=GenerationConfig)
    stop_sequences: tuple[str, ...] = ()
    output: OutputOptions = field(default_factory=OutputOptions)
    truncate_prompt: int | None = None
    """Most tokens of the prompt to keep, the last ones."""
    is_stream: bool = False
    """Whether the answer is a stream."""
    partial_on_deadline: bool = False
    """Whether to end before the deadline with what there is."""
    resumed: tuple[ResumedCandidate, ...] = ()
    """Output that the caller holds, and that is to be gone on with."""
    request_id: str = ""
    """The caller's name for it."""
    ignored_defaults: tuple[str, ...] = ()
    """Paths of the model's defaults that do not apply."""


@dataclass(frozen=True, slots=True)
class Call:
    """The call that a request comes with. Instants are seconds of the gateway's clock."""

    caller: Caller
    """Whose it is."""
    arrived_at: float
    """When it came."""
    deadline_at: float
    """When its answer is of no use any more: the caller's deadline, or the server's if that is earlier."""
    server_request_id: str = ""
    """The gateway's own name for it."""
    timeout_s: float | None = None
    """What the caller had left when it came, as gRPC told it; None without a deadline."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a worker says about its model.

    context_length, vocab_size, prompt_logprobs_limit and pool_tokens are in tokens; quantized_share is from 0 to 1.
    max_rows are the most sequences that run at once, prompt_logprobs_limit the longest prompt whose log-probabilities
    can be reported, pool_tokens what the beams of one search may have together. stop_sequences are the model's own, for
    requests that name none.
    """

    name: str
    architecture: str
    context_length: int
    vocab_size: int
    quantization: str
    quantized_share: float
    fingerprint: str
    generation_defaults: GenerationConfig
    eos_token_ids: tuple[int, ...]
    tokenizer_sha256: str
    max_rows: int
    prompt_logprobs_limit: int
    pool_tokens: int
    stop_sequences: tuple[str, ...] = ()
