"""The request goes before the model, the model before the defaults."""

import pytest

from gateway.effective import EffectiveConfig, resolve, samples
from gateway.request import GenerationConfig

UNSET = GenerationConfig()


@pytest.mark.parametrize(
    ("requested", "model", "expected"),
    [
        (UNSET, UNSET, False),
        (UNSET, GenerationConfig(do_sample=True), True),
        (UNSET, GenerationConfig(do_sample=True, temperature=0.0), False),
        (GenerationConfig(temperature=0.7), UNSET, True),
        (GenerationConfig(top_k=5), UNSET, True),
        (GenerationConfig(top_p=0.9), UNSET, True),
        (GenerationConfig(min_p=0.1), UNSET, True),
        (GenerationConfig(repetition_penalty=1.2), UNSET, False),
        (GenerationConfig(seed=3), UNSET, False),
        (GenerationConfig(temperature=0.0), GenerationConfig(do_sample=True), False),
        (GenerationConfig(temperature=0.0, top_p=0.9), UNSET, False),
        (GenerationConfig(do_sample=False, temperature=0.7), UNSET, False),
        (GenerationConfig(do_sample=False), GenerationConfig(do_sample=True), False),
        (GenerationConfig(do_sample=True), UNSET, True),
    ],
)
def test_whether_to_sample(requested: GenerationConfig, model: GenerationConfig, expected: bool) -> None:  # noqa: FBT001
    assert samples(requested, model) is expected


def test_without_any_setting_it_is_greedy_with_256_tokens() -> None:
    assert resolve(UNSET, UNSET, room=1000, seed=9) == EffectiveConfig(
        max_new_tokens=256,
        do_sample=False,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        seed=9,
    )


def test_the_model_fills_in_what_the_request_leaves_open() -> None:
    model = GenerationConfig(max_new_tokens=40, do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.1)

    effective = resolve(GenerationConfig(top_k=0, seed=2**63 - 1), model, room=1000, seed=9)

    assert effective == EffectiveConfig(
        max_new_tokens=40,
        do_sample=True,
        temperature=0.6,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.1,
        seed=2**63 - 1,
    )


def test_greedy_has_neutral_sampling_values_and_keeps_the_penalty() -> None:
    requested = GenerationConfig(temperature=0.0, top_k=5, top_p=0.5, min_p=0.5, repetition_penalty=1.3)

    effective = resolve(requested, UNSET, room=10, seed=9)

    assert (effective.temperature, effective.top_k, effective.top_p, effective.min_p) == (1.0, 0, 1.0, 0.0)
    assert effective.repetition_penalty == 1.3


@pytest.mark.parametrize("model_default", [None, 50])
def test_a_default_length_is_clipped_to_the_room(model_default: int | None) -> None:
    model = GenerationConfig(max_new_tokens=model_default)

    assert resolve(UNSET, model, room=7, seed=9).max_new_tokens == 7


def test_sampling_goes_on_at_temperature_1_where_the_models_default_is_greedy() -> None:
    effective = resolve(GenerationConfig(top_p=0.9), GenerationConfig(temperature=0.0), room=10, seed=9)

    assert effective.do_sample
    assert effective.temperature == 1.0


def test_an_effective_config_asked_for_again_is_the_same() -> None:
    first = resolve(GenerationConfig(temperature=0.7), GenerationConfig(top_k=3), room=10, seed=9)
    receipt = GenerationConfig(**{name: getattr(first, name) for name in EffectiveConfig.__slots__})

    assert resolve(receipt, GenerationConfig(top_p=0.2), room=10, seed=1) == first
