"""Completes what a request sets: the request goes before the model's generation config, that before the defaults."""

from dataclasses import dataclass
from typing import TypeVar

from .request import GenerationConfig

DEFAULT_MAX_NEW_TOKENS = 256
# JavaScript and JSON readers keep integers exact below this.
SEED_LIMIT = 2**53

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """The parameters that a generation runs with. Greedy ones have neutral sampling values."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int


def resolve(requested: GenerationConfig, model: GenerationConfig, *, room: int, seed: int) -> EffectiveConfig:
    """The effective parameters of a request that `limits` has passed.

    Args:
        requested: What the request sets.
        model: What the model's own generation config sets.
        room: Tokens of the context that the prompt leaves free, at least 1. Clips a default of max_new_tokens; an
            explicit one has been checked against it.
        seed: Seed to take if the request sets none.
    """
    sampling = samples(requested, model)
    return EffectiveConfig(
        max_new_tokens=min(_first(requested.max_new_tokens, model.max_new_tokens, DEFAULT_MAX_NEW_TOKENS), room),
        do_sample=sampling,
        # A model's default of 0 means greedy: a request that asks for sampling all the same gets 1.
        temperature=_first(requested.temperature, model.temperature or None, 1.0) if sampling else 1.0,
        top_k=_first(requested.top_k, model.top_k, 0) if sampling else 0,
        top_p=_first(requested.top_p, model.top_p, 1.0) if sampling else 1.0,
        min_p=_first(requested.min_p, model.min_p, 0.0) if sampling else 0.0,
        repetition_penalty=_first(requested.repetition_penalty, model.repetition_penalty, 1.0),
        seed=_first(requested.seed, None, seed),
    )


def samples(requested: GenerationConfig, model: GenerationConfig) -> bool:
    """Whether to sample: what the request says, else what its parameters imply, else what the model says."""
    if requested.temperature == 0:
        return False
    if requested.do_sample is not None:
        return requested.do_sample
    implied = (requested.temperature, requested.top_k, requested.top_p, requested.min_p)
    if any(value is not None for value in implied):
        return True
    return bool(model.do_sample) and model.temperature != 0


def _first(requested: T | None, model: T | None, default: T) -> T:
    if requested is not None:
        return requested
    return model if model is not None else default
