"""The request goes before the model, the model before the defaults; what comes out is valid, and comes out again."""

from dataclasses import fields, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.domain.generation_config import EffectiveConfig, GenerationConfig, config_violations
from gateway.domain.request import Request, TemplateFacts
from gateway.request.defaults import MODELS_OWN, SAMPLING, resolve, samples
from gateway.request.validation import (
    contradictions,
    length_violations,
    output_room,
    request_violations,
)
from gateway.workers.protocol import read_config, write_config
from tests.gateway.configs import EVERYTHING, configs
from tests.gateway.requests import FACTS, GOOD

UNSET = GenerationConfig()


def effective(requested: GenerationConfig, model: GenerationConfig = UNSET, *, room: int = 1000) -> EffectiveConfig:
    return resolve(requested, model, room=room, seed=9)


@pytest.mark.parametrize(
    ("requested", "model", "expected"),
    [
        (UNSET, UNSET, False),
        (UNSET, GenerationConfig(do_sample=True), True),
        (UNSET, GenerationConfig(do_sample=True, temperature=0.0), False),
        *((replace(UNSET, **{name: getattr(EVERYTHING, name)}), UNSET, True) for name in SAMPLING),
        (GenerationConfig(repetition_penalty=1.2), UNSET, False),
        (GenerationConfig(seed=3), UNSET, False),
        (GenerationConfig(temperature=0.0), GenerationConfig(do_sample=True), False),
        (GenerationConfig(temperature=0.0, top_p=0.9), UNSET, False),
        (GenerationConfig(do_sample=False, temperature=0.7), UNSET, False),
        (GenerationConfig(do_sample=False), GenerationConfig(do_sample=True), False),
        (GenerationConfig(do_sample=True), UNSET, True),
        (GenerationConfig(num_beams=2), GenerationConfig(do_sample=True), False),
        (GenerationConfig(num_beams=2, temperature=0.7), UNSET, False),
        (GenerationConfig(num_beams=1, temperature=0.7), UNSET, True),
    ],
)
def test_whether_to_sample(requested: GenerationConfig, model: GenerationConfig, expected: bool) -> None:  # noqa: FBT001
    assert samples(requested, model) is expected


def test_without_any_setting_it_is_greedy_with_256_tokens() -> None:
    assert effective(UNSET) == EffectiveConfig(seed=9, max_new_tokens=256, best_of=1)


def test_a_request_can_set_everything() -> None:
    chosen = effective(EVERYTHING)

    for field in fields(EVERYTHING):
        if field.name != "num_beams":
            assert getattr(chosen, field.name) == getattr(EVERYTHING, field.name), field.name
    assert effective(GenerationConfig(num_beams=4)).num_beams == 4


def test_the_model_fills_in_what_it_has_a_say_in_and_nothing_else() -> None:
    chosen, server = effective(UNSET, replace(EVERYTHING, num_beams=4)), effective(UNSET)

    assert chosen.do_sample
    for field in fields(chosen):
        source = EVERYTHING if field.name in {*MODELS_OWN, "do_sample"} else server
        assert getattr(chosen, field.name) == getattr(source, field.name), field.name


def test_what_the_request_sets_goes_before_the_model() -> None:
    requested = GenerationConfig(top_k=0, seed=2**63 - 1, suppress_tokens=(1,), min_new_tokens=0)

    chosen = effective(requested, EVERYTHING)

    assert (chosen.top_k, chosen.seed, chosen.suppress_tokens, chosen.min_new_tokens) == (0, 2**63 - 1, (1,), 0)


@pytest.mark.parametrize("greedy", [GenerationConfig(do_sample=False), GenerationConfig(temperature=0.0)])
def test_greedy_has_neutral_sampling_values_and_keeps_the_penalties(greedy: GenerationConfig) -> None:
    requested = replace(EVERYTHING, do_sample=greedy.do_sample, temperature=greedy.temperature)

    chosen, neutral = effective(requested, EVERYTHING), effective(UNSET)

    assert not chosen.do_sample
    assert all(getattr(chosen, name) == getattr(neutral, name) for name in SAMPLING)
    assert (chosen.repetition_penalty, chosen.presence_penalty) == (1.1, 0.5)


@pytest.mark.parametrize("model_default", [None, 50])
def test_a_default_length_is_clipped_to_the_room(model_default: int | None) -> None:
    assert effective(UNSET, GenerationConfig(max_new_tokens=model_default), room=7).max_new_tokens == 7


@pytest.mark.parametrize(
    ("requested", "model", "expected"),
    [
        (GenerationConfig(max_new_tokens=5), GenerationConfig(min_new_tokens=10), (5, 5)),
        (GenerationConfig(min_new_tokens=60), GenerationConfig(max_new_tokens=50), (60, 60)),
        (GenerationConfig(min_new_tokens=300), UNSET, (300, 300)),
        (UNSET, GenerationConfig(min_new_tokens=2000), (256, 256)),
        (UNSET, GenerationConfig(max_new_tokens=50, min_new_tokens=10), (50, 10)),
    ],
)
def test_a_default_length_gives_way_to_the_requests_other_one(
    requested: GenerationConfig, model: GenerationConfig, expected: tuple[int, int]
) -> None:
    chosen = effective(requested, model)

    assert (chosen.max_new_tokens, chosen.min_new_tokens) == expected


def test_sampling_goes_on_at_temperature_1_where_the_models_default_is_greedy() -> None:
    chosen = effective(GenerationConfig(top_p=0.9), GenerationConfig(temperature=0.0))

    assert chosen.do_sample
    assert chosen.temperature == 1.0


def test_what_a_model_suppresses_gives_way_to_what_a_request_allows() -> None:
    model = GenerationConfig(suppress_tokens=(1, 2), begin_suppress_tokens=(3,), bad_words_ids=((1,), (4,), (1, 1)))

    chosen = effective(GenerationConfig(allowed_token_ids=(1, 3)), model)

    assert (chosen.suppress_tokens, chosen.begin_suppress_tokens) == ((2,), ())
    assert chosen.bad_words_ids == ((4,), (1, 1))


def test_with_beams_there_is_no_best_of() -> None:
    chosen = effective(GenerationConfig(num_beams=4, num_return_sequences=2))

    assert (chosen.best_of, chosen.sequence_count, chosen.is_ranked) == (None, 2, False)


@given(configs(), configs(), st.integers(1, 99), st.booleans())
def test_a_valid_request_stays_valid_whatever_the_model_sets_and_resolves_to_itself(
    requested: GenerationConfig,
    model: GenerationConfig,
    prompt_token_count: int,
    is_stream: bool,  # noqa: FBT001
) -> None:
    facts = replace(FACTS, generation_defaults=model)
    request = Request(GOOD.prompt, config=requested, is_stream=is_stream)
    assume(not request_violations(request, facts, TemplateFacts(is_there=False)))
    assume(not list(length_violations(prompt_token_count, "text", request, facts)))
    room = output_room(prompt_token_count, requested, facts)

    chosen = resolve(requested, model, room=room, seed=5)

    receipt = read_config(write_config(chosen))
    again = replace(request, config=receipt)
    assert not list(config_violations(receipt, facts.vocab_size))
    assert not list(contradictions(again, facts))
    assert not list(length_violations(prompt_token_count, "text", again, facts))
    assert resolve(receipt, model, room=room, seed=6) == chosen
    assert chosen.min_new_tokens <= chosen.max_new_tokens <= room
    assert not chosen.do_sample or chosen.temperature > 0
