"""Checks the values of a generation config, one by one. Pure. Fields are named without a prefix."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from ..domain.errors import Violation
from ..domain.request import EarlyStopping, GenerationConfig
from .defaults import CALLERS_OWN, set_fields

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
        yield from _float_violations(name, getattr(config, name), allowed)
    yield from _decay_violations(config)
    for name, limit in _ID_LISTS.items():
        yield from id_list_violations(name, getattr(config, name), vocab_size, limit=limit)
    for name in _IDS:
        token_id: int | None = getattr(config, name)
        if token_id is not None:
            yield from _first_bad_id(((name, token_id),), vocab_size)
    yield from _bad_words_violations(config.bad_words_ids, vocab_size)
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


def out_of_range(field: str, description: str) -> Violation:
    """A value outside the range that the proto names."""
    return Violation(field, "OUT_OF_RANGE", description)


def _int_violations(config: GenerationConfig) -> Iterator[Violation]:
    for name, minimum in _INT_MINIMA.items():
        value: int | None = getattr(config, name)
        if value is not None and value < minimum:
            yield out_of_range(name, f"must be at least {minimum}, is {value}")
    if config.early_stopping is not None and config.early_stopping not in set(EarlyStopping):
        yield out_of_range("early_stopping", f"must be a value that the proto names, is {config.early_stopping}")


def _float_violations(name: str, value: float | None, allowed: _Range) -> Iterator[Violation]:
    is_allowed, words = allowed
    if value is not None and not (math.isfinite(value) and is_allowed(value)):
        yield out_of_range(name, f"must be {words}, is {value}")


def _decay_violations(config: GenerationConfig) -> Iterator[Violation]:
    decay = config.exponential_decay_length_penalty
    if decay is None:
        return
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
