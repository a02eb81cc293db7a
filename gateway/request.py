"""What a caller asks for, and what a model is, as plain values of the text domain."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text, encoded with the special tokens that the tokenizer adds by itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, to be rendered with the model's chat template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids that are taken as they are."""

    ids: Sequence[int]


Prompt = TextPrompt | ChatPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Sampling parameters as a request or a model sets them; None where it does not. Ranges: see the proto."""

    max_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What the answer contains beside the generated text."""

    echo: bool = False
    token_ids: bool = False
    skip_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a continuation, decoded but not yet checked."""

    prompt: Prompt | None
    model: str = ""
    config: GenerationConfig = field(default_factory=GenerationConfig)
    stop_sequences: tuple[str, ...] = ()
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a worker says about its model.

    context_length and vocab_size are in tokens; quantized_share is from 0 to 1.
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
