"""Reads single values of a generation_config.json: as `generate()` would take them, or not at all."""

from collections.abc import Callable, Mapping

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
_MOST = 2**31 - 1
"""Whole numbers above it, which the API cannot hold, mean the same as it: nothing here is as long or as many."""
_LARGEST = 2**53
"""Up to it every whole number is a float."""
_LEAST_SHARE = 1e-9
"""A share of the probability that the likeliest token alone always has."""


class UnfitError(Exception):
    """A value is not what the message says."""


Reader = Callable[[object], object]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        raise UnfitError("a number")
    return float(max(-_LARGEST, min(value, _LARGEST))) if isinstance(value, int) else value


def _whole(value: object) -> int:
    """Reads a whole number, which JSON may also write as 30.0 or 3e1."""
    number = _number(value)
    if not number.is_integer():
        raise UnfitError("a whole number")
    return max(-_MOST, min(int(number), _MOST))


def _count(least: int) -> Reader:
    def read(value: object) -> int:
        if _whole(value) < least:
            raise UnfitError(f"at least {least}")
        return _whole(value)

    return read


def _count_or_off(value: object) -> int:
    """Reads a number of tokens of which every negative one means 0."""
    return max(0, _whole(value))


def _between(is_inside: Callable[[float], bool], words: str) -> Reader:
    def read(value: object) -> float:
        if not is_inside(_number(value)):
            raise UnfitError(words)
        return _number(value)

    return read


_factor = _between(lambda value: 0 < value <= 100, "above 0 and at most 100")


def _share_or_off(*, least: float) -> Reader:
    """Returns what reads a share of the probability, at least `least` where that is not 0; from 1 on it is off."""

    def read(value: object) -> float:
        if _number(value) < 0 or (_number(value) == 0 and not least):
            raise UnfitError("above 0")
        return min(1.0, max(least, _number(value)))

    return read


def _cutoff_or_off(value: object) -> float:
    return _number(value) if 0 < _number(value) < 1 else 0.0


def _truth(value: object) -> bool:
    if not isinstance(value, int | float) or value not in {0, 1}:
        raise UnfitError("true or false")
    return bool(value)


def _stopping(value: object) -> bool | str:
    if value == "never":
        return "never"
    try:
        return _truth(value)
    except UnfitError:
        raise UnfitError('true, false or "never"') from None


def _list(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise UnfitError("a list")
    return list(value)


def _ids(value: object) -> tuple[int, ...] | None:
    return tuple(_whole(each) for each in _list(value)) or None


def _id(value: object) -> int | None:
    """Reads an id, or several, of which the lowest counts."""
    if not isinstance(value, list | tuple):
        return _whole(value)
    if not value:
        raise UnfitError("a token id")
    return min(map(_whole, value))


def _end_ids(value: object) -> tuple[int, ...]:
    """Reads an id, or several, which may be nested: `generate()` looks for any of them all the same."""
    if not isinstance(value, list | tuple):
        return (_whole(value),)
    if not value:
        raise UnfitError("a token id, or several")
    return tuple(token for each in value for token in _end_ids(each))


def _words(value: object) -> tuple[tuple[int, ...], ...] | None:
    return tuple(ids for each in _list(value) if (ids := _ids(each))) or None


def _biases(value: object) -> tuple[object, ...] | None:
    pairs = list(value.items()) if isinstance(value, Mapping) else _list(value)
    return tuple(_bias_entry(pair) for pair in pairs) or None


def _bias_entry(pair: object) -> tuple[object, object]:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not (ids := _ids(pair[0])):
        raise UnfitError("a list of pairs, each of a list of token ids and a number")
    return ids, _between(lambda bias: -1000 <= bias <= 1000, "of biases from -1000 to 1000")(pair[1])


def _decay(value: object) -> tuple[object, object]:
    if len(pair := _list(value)) != 2:
        raise UnfitError("a list of a start and a factor")
    return _count(0)(pair[0]), _factor(pair[1])


def _texts(value: object) -> tuple[str, ...] | None:
    given = [value] if isinstance(value, str) else _list(value)
    texts = [text for text in given if isinstance(text, str) and 1 <= len(text.encode()) <= MAX_STOP_STRING_BYTES]
    if len(texts) < len(given):
        raise UnfitError(f"a text, or several, of 1 to {MAX_STOP_STRING_BYTES} bytes")
    if len(texts) > MAX_STOP_STRINGS:
        raise UnfitError(f"at most {MAX_STOP_STRINGS} texts")
    return tuple(texts) or None


READERS: Mapping[str, Reader] = {
    "max_new_tokens": _count(1),
    "min_new_tokens": _count_or_off,
    "do_sample": _truth,
    "temperature": _between(lambda value: 0 <= value <= 100, "from 0 to 100"),
    "top_k": _count(0),
    "top_p": _share_or_off(least=_LEAST_SHARE),
    "min_p": _between(lambda value: 0 <= value <= 1, "from 0 to 1"),
    "typical_p": _share_or_off(least=0),
    "epsilon_cutoff": _cutoff_or_off,
    "repetition_penalty": _factor,
    "no_repeat_ngram_size": _count_or_off,
    "bad_words_ids": _words,
    "sequence_bias": _biases,
    "exponential_decay_length_penalty": _decay,
    "suppress_tokens": _ids,
    "begin_suppress_tokens": _ids,
    "forced_bos_token_id": _id,
    "forced_eos_token_id": _id,
    "length_penalty": _between(lambda value: -100 <= value <= 100, "from -100 to 100"),
    "early_stopping": _stopping,
    "stop_strings": _texts,
    "eos_token_id": _end_ids,
    # Not taken, but transformers compares them with numbers while it loads.
    "pad_token_id": _whole,
    "bos_token_id": _whole,
}
"""Each raises UnfitError for what cannot be meant; None where a value sets nothing."""
