"""Completes what a request sets: the request goes before the model's generation config, that before the defaults.

What a model sets never makes a request invalid. Where it contradicts what a request sets, it gives way:
- its temperature 0 to a request that samples, and its do_sample to one with temperature 0, or with beams;
- its max_new_tokens, as the server's, to the room in the context and to a request's min_new_tokens;
- its min_new_tokens to max_new_tokens;
- its stop sequences to beams, which take none;
- the tokens that it suppresses, alone or as a bad word of one token, to a request's allowed_token_ids.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..domain.request import EarlyStopping, ExponentialDecay, GenerationConfig


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


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff")
"""What has an effect with sampling only, and asks for it."""

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

MODELS_OWN = frozenset(_NAMES[GenerationConfig]) - CALLERS_OWN
"""What a model's generation config has a say in: all the rest."""


def resolve(requested: GenerationConfig, model: GenerationConfig, *, room: int, seed: int) -> EffectiveConfig:
    """The effective parameters of a request that `limits` has passed. They pass, too, and resolve to themselves.

    Args:
        requested: What the request sets.
        model: What the model's own generation config sets.
        room: Tokens of the context that the prompt leaves free, at least 1. Clips a default of max_new_tokens; an
            explicit one has been checked against it.
        seed: Seed to take if the request sets none.
    """
    models_own = set_fields(_giving_way(model, requested), MODELS_OWN)
    values: dict[str, Any] = {"seed": seed, **models_own, **set_fields(requested)}
    values["do_sample"] = samples(requested, model)
    if not values["do_sample"]:
        values = {name: value for name, value in values.items() if name not in SAMPLING}
    chosen = EffectiveConfig(**values)
    longest = min(max(chosen.max_new_tokens, requested.min_new_tokens or 0), room)
    return replace(
        chosen,
        max_new_tokens=longest,
        min_new_tokens=min(chosen.min_new_tokens, longest),
        best_of=None if chosen.searches_beams else chosen.sequence_count,
    )


def effective_stops(
    requested: tuple[str, ...], models_own: tuple[str, ...], config: EffectiveConfig
) -> tuple[str, ...]:
    """The stop sequences that are looked for: the request's, else the model's own, which give way to beams."""
    return requested or (() if config.searches_beams else models_own)


def samples(requested: GenerationConfig, model: GenerationConfig) -> bool:
    """Whether to sample: what the request says, else what its parameters imply, else what the model says."""
    if requested.temperature == 0 or (requested.num_beams or 1) > 1:
        return False
    if requested.do_sample is not None:
        return requested.do_sample
    if any(getattr(requested, name) is not None for name in SAMPLING):
        return True
    return bool(model.do_sample) and model.temperature != 0


def set_fields(config: GenerationConfig | EffectiveConfig, names: Iterable[str] | None = None) -> dict[str, Any]:
    """The values of a config that are set, of some of its fields or of all: neither None nor an empty list."""
    chosen = _NAMES[type(config)] if names is None else names
    return {name: value for name in chosen if (value := getattr(config, name)) is not None and value != ()}


def _giving_way(model: GenerationConfig, requested: GenerationConfig) -> GenerationConfig:
    """The model's config without what contradicts the request."""
    allowed = frozenset(requested.allowed_token_ids)
    return replace(
        model,
        temperature=model.temperature or None,
        suppress_tokens=_without(model.suppress_tokens, allowed),
        begin_suppress_tokens=_without(model.begin_suppress_tokens, allowed),
        bad_words_ids=tuple(words for words in model.bad_words_ids if len(words) > 1 or allowed.isdisjoint(words)),
    )


def _without(token_ids: tuple[int, ...], allowed: frozenset[int]) -> tuple[int, ...]:
    return tuple(token_id for token_id in token_ids if token_id not in allowed)
