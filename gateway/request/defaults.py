"""Completes what a request sets: the request goes before the model's generation config, that before the defaults.

What a model sets never makes a request invalid. Where it contradicts what a request sets, it gives way:
- its temperature 0 to a request that samples, and its do_sample to one with temperature 0, or with beams;
- its max_new_tokens, as the server's, to the room in the context and to a request's min_new_tokens;
- its min_new_tokens to max_new_tokens;
- its stop sequences to beams, which take none;
- the tokens that it suppresses, alone or as a bad word of one token, to a request's allowed_token_ids.
"""

from dataclasses import fields, replace
from typing import Any

from ..domain.generation_config import CALLERS_OWN, EffectiveConfig, GenerationConfig, set_fields
from ..domain.request import ModelFacts, Request

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff")
"""What has an effect with sampling only, and asks for it."""

MODELS_OWN = frozenset(field.name for field in fields(GenerationConfig)) - CALLERS_OWN
"""What a model's generation config has a say in: all the rest."""


def resolve(requested: GenerationConfig, model: GenerationConfig, *, room: int, seed: int) -> EffectiveConfig:
    """The effective parameters of a request that `validation` has passed. They pass, too, and resolve to themselves.

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


CONFIG_PATH = "generation_config"
STOPS_PATH = "stop_sequences"
IGNORABLE = frozenset({STOPS_PATH, CONFIG_PATH, *(f"{CONFIG_PATH}.{name}" for name in MODELS_OWN)})
"""Paths of what a model has defaults for, and a request may do without."""


def applied_defaults(request: Request, facts: ModelFacts) -> GenerationConfig:
    """The model's own config without what the request ignores of it."""
    if CONFIG_PATH in request.ignored_defaults:
        return GenerationConfig()
    names = {path.partition(".")[2] for path in request.ignored_defaults if path != STOPS_PATH}
    unset: dict[str, Any] = {each.name: each.default for each in fields(GenerationConfig) if each.name in names}
    return replace(facts.generation_defaults, **unset) if unset else facts.generation_defaults


def effective_stops(request: Request, facts: ModelFacts, config: EffectiveConfig) -> tuple[str, ...]:
    """The stop sequences that are looked for: the request's, else the model's own, which give way to beams."""
    if request.stop_sequences or config.searches_beams or STOPS_PATH in request.ignored_defaults:
        return request.stop_sequences
    return facts.stop_sequences


def samples(requested: GenerationConfig, model: GenerationConfig) -> bool:
    """Whether to sample: what the request says, else what its parameters imply, else what the model says."""
    if requested.temperature == 0 or (requested.num_beams or 1) > 1:
        return False
    if requested.do_sample is not None:
        return requested.do_sample
    if any(getattr(requested, name) is not None for name in SAMPLING):
        return True
    return bool(model.do_sample) and model.temperature != 0


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
