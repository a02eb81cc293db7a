"""What the client takes and gives back: frozen values, free of protobuf and gRPC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .generation_config import GenerationConfig, brief, short_repr


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call, as far as its chat template knows how to tell it of one."""

    name: str
    """Its name; not empty."""
    description: str = ""
    """What it does, for the model to read."""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its parameters: a JSON schema. The model reads the keys in this order."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant called."""

    name: str
    """Name of the function; not empty."""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its arguments, as JSON has them."""
    id: str = ""
    """By which the tool's answer names the call; may be empty."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat prompt."""

    role: str
    """Who speaks, in the words of the model's chat template: usually "system", "user", "assistant" or "tool"."""
    content: str | Sequence[str] | None
    """What is said, or its parts, for templates that tell them apart. May be empty; None where there are tool calls."""
    name: str = ""
    """Name of who speaks, where the template has one."""
    tool_calls: Sequence[ToolCall] = ()
    """The calls that the assistant made in this turn: at most 128."""
    tool_call_id: str = ""
    """Of a tool's answer: id of the call that it answers."""
    reasoning: str = ""
    """What the assistant thought before it spoke, for templates of reasoning models."""


Prompt = str | Sequence[Message | Mapping[str, Any]] | Sequence[int]
"""Plain text, or chat messages (oldest first), or token ids.

A message may be a mapping as other libraries have them: `{"role": ..., "content": ...}`, where content may be a list of
`{"type": "text", "text": ...}`, and which may have name, tool_calls, tool_call_id and reasoning_content, too.
"""


class FinishReason(StrEnum):
    """Why a candidate ended."""

    END_OF_SEQUENCE = "end_of_sequence"
    """The model wrote an end-of-sequence token."""
    STOP_SEQUENCE = "stop_sequence"
    """One of the request's stop sequences came up; the candidate names it."""
    LENGTH = "length"
    """max_new_tokens were generated."""
    DEADLINE = "deadline"
    """The call's timeout was near, and `partial_on_deadline` was set."""
    STOP_TOKEN = "stop_token"  # noqa: S105 - no secret
    """One of the request's stop token ids came up."""
    TIME_LIMIT = "time_limit"
    """max_time has passed."""
    UNKNOWN = "unknown"
    """A reason that is newer than this client."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens."""

    prompt_token_count: int
    """Tokens in the prompt, special ones included."""
    output_token_count: int
    """Tokens generated, over all candidates, those included that best_of did not return: a final end-of-sequence token
    counts, what the model wrote beyond a stop sequence does not."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went, as the server saw it, in seconds."""

    queue: float
    """From arrival until the prefill began."""
    prefill: float
    """From the begin of the prefill to the first token."""
    decode: float
    """From the first token to the last."""
    time_to_first_token: float
    """From arrival to the first token."""


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens."""

    token_id: int
    """The token."""
    logprob: float
    """Its log-probability."""


@dataclass(frozen=True, slots=True, repr=False)
class TokenLogprob:
    """How likely a token was: by the natural logarithm of the softmax of the model's logits, in float32.

    No parameter of the request changes them: they are taken before penalties, biases and temperature.
    """

    token_id: int
    """The token."""
    logprob: float
    """Its log-probability."""
    rank: int
    """1 for the likeliest token; equals share the best of their ranks."""
    text_offset: int
    """Characters of the generated text, without an echo, that were complete before this token; 0 in a prompt."""
    top: tuple[TopLogprob, ...] = ()
    """The `top_logprobs` likeliest tokens, likeliest first."""

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Candidate:
    """One generated continuation."""

    text: str
    """The generated text; with `echo`, prompt and generated text."""
    finish_reason: FinishReason
    """Why it ended."""
    stop_sequence: str
    """The stop sequence that ended it; empty if none did."""
    token_ids: tuple[int, ...]
    """The generated token ids if `token_ids` was asked for, else empty."""
    seed: int
    """Its own seed: a request for one candidate with it, all else equal, gives the same text."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each generated token if `logprobs` was asked for, else empty."""
    score: float | None = None
    """What candidates were ranked by: the mean log-probability with `best_of`, with beams the sum of log-probabilities
    over length^length_penalty; None without either."""
    stop_token_id: int | None = None
    """The stop token, or end-of-sequence token, that ended it; None if none did."""

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Generation:
    """A whole answer. `model`, `fingerprint`, `seed` and `config` are what is needed to run the request again."""

    candidates: tuple[Candidate, ...]
    """The continuations, at least one. With `best_of` or beams: best first."""
    usage: Usage
    """Tokens read and written."""
    timing: Timing
    """Where the time went."""
    model: str
    """Name of the model."""
    fingerprint: str
    """Identifies weights, quantization and compute type."""
    seed: int
    """The effective seed, chosen by the server where the request had none."""
    config: GenerationConfig
    """The effective value of every parameter."""
    worker: str
    """The worker that served the request; the last one, if it was moved."""
    attempt_count: int
    """How many workers have run the request: more than 1 if one was lost and another went on."""
    resumed: bool = False
    """Whether the output comes from more than one worker, or goes on behind what the caller held: in 16-bit arithmetic
    it may then differ by rounding from one that was made in one piece."""
    stop_sequences: tuple[str, ...] = ()
    """The stop sequences that were looked for: the request's, else the model's own."""
    prompt_token_ids: tuple[int, ...] = ()
    """The prompt's token ids if both `echo` and `token_ids` were asked for, else empty."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token of the prompt but the first if `prompt_logprobs` was asked for, else empty."""
    server_request_id: str = ""
    """The server's own name for the call that generated this, by which its log tells of it."""

    @property
    def text(self) -> str:
        """The text of the first candidate."""
        return self.candidates[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first candidate ended."""
        return self.candidates[0].finish_reason

    @property
    def stop_sequence(self) -> str:
        """The stop sequence that ended the first candidate; empty if none did."""
        return self.candidates[0].stop_sequence

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first candidate's token ids if `token_ids` was asked for, else empty."""
        return self.candidates[0].token_ids

    def __repr__(self) -> str:
        """What is looked at first, in a line: the rest is in the fields."""
        first = f"text={brief(self.text)}, finish_reason={str(self.finish_reason)!r}, " if self.candidates else ""
        return (
            f"Generation({first}candidates={len(self.candidates)}, prompt_tokens={self.usage.prompt_token_count},"
            f" output_tokens={self.usage.output_token_count}, model={brief(self.model)}, seed={self.seed})"
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request would be, and how long it would take, in seconds: on the low side, None where nothing is known."""

    prompt_token_count: int
    """Tokens in the prompt, after the chat template and `truncate_prompt`."""
    max_new_tokens: int
    """Most tokens that would be generated for each candidate."""
    queue: float | None
    """Time in the queue."""
    time_to_first_token: float | None
    """Time until the first token, that in the queue included."""
    total: float | None
    """Time until the end, if `max_new_tokens` are generated."""


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """What one token stands for."""

    piece: bytes
    """Its bytes as the vocabulary has them, which need not be whole characters; of a special token, its name."""
    begin: int
    """Where it begins in the tokenized text, in bytes of UTF-8. A part of a character has all of the character; what
    the tokenizer has added begins and ends at 0."""
    end: int
    """Where it ends."""
    is_special: bool
    """Whether it is a special token."""


@dataclass(frozen=True, slots=True, repr=False)
class Tokenization:
    """The tokens of a prompt."""

    token_ids: tuple[int, ...]
    """The tokens, those included that the tokenizer adds by itself."""
    pieces: tuple[TokenPiece, ...] = ()
    """What each of them stands for if `pieces` was asked for, else empty."""
    rendered_prompt: str = ""
    """The text that was tokenized, if it was asked for: of a chat, what the template made of it."""

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    __repr__ = short_repr


class ModelCapability(StrEnum):
    """Something that requests may ask of a model beside plain text."""

    CHAT = "chat"
    """Chat prompts: it has a chat template."""
    TOOLS = "tools"
    """Tools in chat prompts: the template mentions them."""
    PROMPT_LOGPROBS = "prompt_logprobs"
    """Log-probabilities of the prompt."""
    UNKNOWN = "unknown"
    """One that is newer than this client."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What requests are refused by, beside the context and the vocabulary: the least of the workers that are ready."""

    max_sequence_count: int
    """Most candidates (num_return_sequences, best_of), or beams, of one request."""
    max_beam_token_count: int
    """Most tokens, of prompt and output, that all beams of one request may have together."""
    max_prompt_logprobs_token_count: int
    """Longest prompt of which log-probabilities can be reported, in tokens; 0 if of none."""


@dataclass(frozen=True, slots=True, repr=False)
class Model:
    """A model that the server serves."""

    name: str
    """Name to give as `model`."""
    architecture: str
    """Class of the model, such as "LlamaForCausalLM"."""
    context_length: int
    """Most tokens of prompt and output together."""
    vocab_size: int
    """Number of token ids that the model knows."""
    quantization: str
    """How the weights are held: "nf4", "fp4", "int8" or "none"."""
    quantized_share: float
    """Share of the parameters that is quantized, 0 to 1."""
    fingerprint: str
    """Identifies weights, quantization and compute type."""
    default_generation_config: GenerationConfig
    """What applies where a request sets nothing."""
    capabilities: frozenset[ModelCapability]
    """What requests may ask of it beside plain text."""
    limits: ModelLimits
    """What requests are refused by."""
    eos_token_ids: tuple[int, ...]
    """Token ids that end a sequence."""
    ready_worker_count: int
    """Workers that are ready to serve it."""
    default_stop_sequences: tuple[str, ...] = ()
    """Stop sequences that apply where a request names none."""

    __repr__ = short_repr
