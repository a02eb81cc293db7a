"""The parameters of a generation: as they are set, as they take effect, and which values they may have. Pure.

Violations name fields without a prefix.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

from .errors import Violation, out_of_range


class EarlyStopping(IntEnum):
    """When beam search ends, once there are num_beams finished candidates; numbered as in the proto."""

    HEURISTIC = 1
    FIRST = 2
    NEVER = 3


@dataclass(frozen=True, slots=True)
class ExponentialDecay:
    """Makes the end of a sequence ever likelier once the output is longer than start_index."""

    start_index: int
    factor: float


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Parameters as a request or a model sets them; None, or empty, where it does not. Ranges: see the proto."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool | None = None
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
    exponential_decay_length_penalty: ExponentialDecay | None = None

    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None

    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: int | None = None
    """An EarlyStopping, once it has been checked."""

    num_return_sequences: int | None = None
    best_of: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveConfig:
    """The parameters that a generation runs with; their defaults are the server's.

    Greedy ones have the defaults of those that are for sampling.
    """

    seed: int
    """That of the first candidate."""

    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_time: float | None = None

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    exponential_decay_length_penalty: ExponentialDecay | None = None

    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: int = EarlyStopping.HEURISTIC

    num_return_sequences: int = 1
    best_of: int | None = None
    """How many candidates to generate; None with beam search."""

    @property
    def searches_beams(self) -> bool:
        return self.num_beams > 1

    @property
    def is_ranked(self) -> bool:
        """Whether more candidates are generated than are returned."""
        return (self.best_of or 0) > self.num_return_sequences

    @property
    def sequence_count(self) -> int:
        """How many candidates to generate."""
        return self.best_of or self.num_return_sequences


CALLERS_OWN = frozenset(
    {
        "seed",
        "stop_token_ids",
        "ignore_eos",
        "max_time",
        "presence_penalty",
        "frequency_penalty",
        "allowed_token_ids",
        "num_beams",
        "num_return_sequences",
        "best_of",
    }
)
"""What no model has a say in: a default must not turn streams into beam searches, nor multiply what a call costs."""

_NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in (GenerationConfig, EffectiveConfig)}


def set_fields(config: GenerationConfig | EffectiveConfig, names: Iterable[str] | None = None) -> dict[str, Any]:
    """The values of a config that are set, of some of its fields or of all: neither None nor an empty list."""
    chosen = _NAMES[type(config)] if names is None else names
    return {name: value for name in chosen if (value := getattr(config, name)) is not None and value != ()}


MAX_TOKEN_IDS = 65_536
MAX_STOP_TOKEN_IDS = 64
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_TOKENS = 64
MAX_LOGIT_BIASES = 1024

PIECE = 8192
"""Ids of a long list that are looked at in one go: half a millisecond."""

_INT_MINIMA = {
    "max_new_tokens": 1,
    "min_new_tokens": 0,
    "seed": 0,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "best_of": 1,
}
_Range = tuple[Callable[[float], bool], str]
_SHARE: _Range = (lambda value: 0 < value <= 1, "above 0 and at most 1")
_PENALTY: _Range = (lambda value: -100 <= value <= 100, "from -100 to 100")
_FACTOR: _Range = (lambda value: 0 < value <= 100, "above 0 and at most 100")
_BIAS: _Range = (lambda value: -1000 <= value <= 1000, "from -1000 to 1000")
_FLOAT_RANGES: dict[str, _Range] = {
    "temperature": (lambda value: 0 <= value <= 100, "from 0 to 100"),
    "top_p": _SHARE,
    "min_p": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "typical_p": _SHARE,
    "epsilon_cutoff": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "repetition_penalty": _FACTOR,
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "length_penalty": _PENALTY,
    "max_time": (lambda value: value > 0, "finite and above 0"),
}
_ID_LISTS = {
    "stop_token_ids": MAX_STOP_TOKEN_IDS,
    "allowed_token_ids": MAX_TOKEN_IDS,
    "suppress_tokens": MAX_TOKEN_IDS,
    "begin_suppress_tokens": MAX_TOKEN_IDS,
}
_IDS = ("forced_bos_token_id", "forced_eos_token_id")


def config_violations(config: GenerationConfig, vocab_size: int) -> Iterator[Violation]:
    """Values out of their ranges, ids out of the vocabulary, lists that are too long."""
    yield from _int_violations(config)
    for name, allowed in _FLOAT_RANGES.items():
        if (value := getattr(config, name)) is not None:
            yield from _float_violations(name, value, allowed)
    if config.exponential_decay_length_penalty is not None:
        yield from _decay_violations(config.exponential_decay_length_penalty)
    for name, limit in _ID_LISTS.items():
        if ids := getattr(config, name):
            yield from id_list_violations(name, ids, vocab_size, limit=limit)
    for name in _IDS:
        if (token_id := getattr(config, name)) is not None:
            yield from _first_bad_id(((name, token_id),), vocab_size)
    if config.bad_words_ids:
        yield from _bad_words_violations(config.bad_words_ids, vocab_size)
    if config.logit_bias:
        yield from _bias_violations(config.logit_bias, vocab_size)


def valid_part(config: GenerationConfig, vocab_size: int) -> tuple[GenerationConfig, list[Violation]]:
    """A model's own config without the fields that no request could set so, and what is wrong with those.

    Nor has it the fields that models have no say in: what is left is what applies.
    """
    violations = list(config_violations(config, vocab_size))
    set_names = set_fields(config, sorted(CALLERS_OWN))
    violations += [Violation(name, "NOT_A_DEFAULT", "models have no say in it") for name in set_names]
    invalid = {violation.field.partition("[")[0].partition(".")[0] for violation in violations}
    unset: dict[str, Any] = {field.name: field.default for field in fields(config) if field.name in invalid}
    return replace(config, **unset), violations


def id_list_violations(
    name: str, ids: Sequence[int], vocab_size: int, *, limit: int | None = None, start: int = 0
) -> Iterator[Violation]:
    """What is wrong with a list of token ids: its length, else the first id from `start` on that the vocabulary lacks.

    Goes through it in pieces: one call over a million ids would keep all other threads waiting.
    """
    if limit is not None and len(ids) > limit:
        yield out_of_range(name, f"must be at most {limit} ids, are {len(ids)}")
        return
    for begin in range(start, len(ids), PIECE):
        piece = ids[begin : begin + PIECE]
        if min(piece) < 0 or max(piece) >= vocab_size:
            yield from _first_bad_id(
                ((f"{name}[{index}]", id_) for index, id_ in enumerate(piece, start=begin)), vocab_size
            )
            return


def _int_violations(config: GenerationConfig) -> Iterator[Violation]:
    for name, minimum in _INT_MINIMA.items():
        value: int | None = getattr(config, name)
        if value is not None and value < minimum:
            yield out_of_range(name, f"must be at least {minimum}, is {value}")
    if config.early_stopping is not None and config.early_stopping not in set(EarlyStopping):
        yield out_of_range("early_stopping", f"must be a value that the proto names, is {config.early_stopping}")


def _float_violations(name: str, value: float, allowed: _Range) -> Iterator[Violation]:
    is_allowed, words = allowed
    if not (math.isfinite(value) and is_allowed(value)):
        yield out_of_range(name, f"must be {words}, is {value}")


def _decay_violations(decay: ExponentialDecay) -> Iterator[Violation]:
    if decay.start_index < 0:
        yield out_of_range(
            "exponential_decay_length_penalty.start_index", f"must be at least 0, is {decay.start_index}"
        )
    yield from _float_violations("exponential_decay_length_penalty.factor", decay.factor, _FACTOR)


def _bad_words_violations(bad_words: Sequence[Sequence[int]], vocab_size: int) -> Iterator[Violation]:
    if len(bad_words) > MAX_BAD_WORDS:
        yield out_of_range("bad_words_ids", f"must be at most {MAX_BAD_WORDS}, are {len(bad_words)}")
        return
    for index, ids in enumerate(bad_words):
        if not 1 <= len(ids) <= MAX_BAD_WORD_TOKENS:
            yield out_of_range(f"bad_words_ids[{index}].ids", f"must be 1 to {MAX_BAD_WORD_TOKENS} ids, are {len(ids)}")
        else:
            yield from id_list_violations(f"bad_words_ids[{index}].ids", ids, vocab_size)


def _bias_violations(biases: Sequence[tuple[int, float]], vocab_size: int) -> Iterator[Violation]:
    if len(biases) > MAX_LOGIT_BIASES:
        yield out_of_range("logit_bias", f"must be at most {MAX_LOGIT_BIASES} entries, are {len(biases)}")
        return
    yield from _first_bad_id(((f"logit_bias[{token_id}]", token_id) for token_id, _ in biases), vocab_size)
    for token_id, bias in biases:
        yield from _float_violations(f"logit_bias[{token_id}]", bias, _BIAS)


def _first_bad_id(ids: Iterable[tuple[str, int]], vocab_size: int) -> Iterator[Violation]:
    for name, token_id in ids:
        if not 0 <= token_id < vocab_size:
            yield out_of_range(name, f"must be from 0 to {vocab_size - 1}, is {token_id}")
            return
