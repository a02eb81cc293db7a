"""The parameters at the edge: GenerationConfig as a message, and as a value of the domain."""

from dataclasses import fields
from typing import Any

from textserve.v1 import generation_pb2 as pb

from ..domain.generation_config import EffectiveConfig, ExponentialDecay, GenerationConfig, set_fields

_ID_LISTS = ("stop_token_ids", "allowed_token_ids", "suppress_tokens", "begin_suppress_tokens")
_SPECIAL = frozenset({*_ID_LISTS, "logit_bias", "bad_words_ids", "early_stopping", "exponential_decay_length_penalty"})
_SCALARS = frozenset(field.name for field in fields(GenerationConfig)) - _SPECIAL


def read_config(message: pb.GenerationConfig) -> GenerationConfig:
    """The parameters that are set."""
    values: dict[str, Any] = {field.name: value for field, value in message.ListFields() if field.name in _SCALARS}
    values |= {name: tuple(getattr(message, name)) for name in _ID_LISTS}
    return GenerationConfig(
        **values,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        bad_words_ids=tuple(tuple(words.ids) for words in message.bad_words_ids),
        early_stopping=message.early_stopping or None,
        exponential_decay_length_penalty=_read_decay(message),
    )


def write_config(config: GenerationConfig | EffectiveConfig) -> pb.GenerationConfig:
    """The parameters that are set."""
    decay = config.exponential_decay_length_penalty
    return pb.GenerationConfig(
        **set_fields(config)
        | {
            "logit_bias": dict(config.logit_bias),
            "bad_words_ids": [pb.TokenSequence(ids=ids) for ids in config.bad_words_ids],
            "exponential_decay_length_penalty": decay
            and pb.ExponentialDecayLengthPenalty(start_index=decay.start_index, factor=decay.factor),
        }
    )


def _read_decay(message: pb.GenerationConfig) -> ExponentialDecay | None:
    if not message.HasField("exponential_decay_length_penalty"):
        return None
    decay = message.exponential_decay_length_penalty
    return ExponentialDecay(decay.start_index, decay.factor)
