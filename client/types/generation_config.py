"""The parameters that a generation ran with, as a frozen value."""

import reprlib
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

EarlyStopping = bool | Literal["never"]
"""When beam search ends, in transformers' words."""


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 120
_BRIEF.maxtuple = 6


def brief(value: object) -> str:
    """Its repr, cut if it is long: texts in the middle, sequences at the end."""
    return _BRIEF.repr(value)


def short_repr(self: "DataclassInstance") -> str:
    """For `__repr__`: a dataclass with the fields that differ from their defaults, and long values cut."""
    shown = [(field, getattr(self, field.name)) for field in fields(self)]
    told = [f"{field.name}={brief(each)}" for field, each in shown if field.default is MISSING or each != field.default]
    return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True, slots=True, repr=False)
class GenerationConfig:
    """Effective parameters, as an answer's receipt and a model's defaults report them.

    Each field is the option of the same name, explained in `GenerateOptions`. None, or an empty tuple, stands where
    the server names no value, so that a request with all of them is the same request again:

        client.generate(prompt, **dataclasses.asdict(answer.config))
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    max_time: float | None = None

    do_sample: bool | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None

    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and bias, by id."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None

    num_return_sequences: int | None = None
    best_of: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None

    __repr__ = short_repr
