"""Every value of a generation config has a range, whose ends are allowed and what lies beyond is named by its path."""

import math
from typing import Any

import pytest

from gateway.domain.generation_config import ExponentialDecay, GenerationConfig, config_violations, valid_part
from gateway.domain.request import Request
from tests.gateway.requests import FACTS, GOOD, fields

FLOATS = {
    # name: (values that are allowed, values that are not)
    "temperature": ((0.0, 100.0), (-0.1, 100.1)),
    "top_p": ((1e-9, 1.0), (0.0, 1.1)),
    "min_p": ((0.0, 1.0), (-0.1, 1.1)),
    "typical_p": ((1e-9, 1.0), (0.0, -0.1, 1.1)),
    "epsilon_cutoff": ((0.0, 0.999), (-0.1, 1.0)),
    "repetition_penalty": ((1e-9, 100.0), (0.0, 100.1)),
    "presence_penalty": ((-100.0, 0.0, 100.0), (-100.1, 100.1)),
    "frequency_penalty": ((-100.0, 0.0, 100.0), (-100.1, 100.1)),
    "length_penalty": ((-100.0, 0.0, 100.0), (-100.1, 100.1)),
    "max_time": ((1e-9, 1e9), (0.0, -1.0)),
}
INTS = {
    "max_new_tokens": ((1, 99), (0, -5)),
    "min_new_tokens": ((0, 99), (-1,)),
    "top_k": ((0, 2**31 - 1), (-1,)),
    "seed": ((0, 2**63 - 1), (-1,)),
    "no_repeat_ngram_size": ((0, 2**31 - 1), (-1,)),
    "num_beams": ((1, 8), (0, -1)),
    "early_stopping": ((1, 3), (-1, 4)),
    "best_of": ((1,), (0, -1)),
    "num_return_sequences": ((1,), (0, -1)),
    "forced_bos_token_id": ((0, 49), (-1, 50)),
    "forced_eos_token_id": ((0, 49), (-1, 50)),
}
ID_LISTS = {
    "stop_token_ids": 64,
    "allowed_token_ids": 65_536,
    "suppress_tokens": 65_536,
    "begin_suppress_tokens": 65_536,
}
UNBOUNDED = {"do_sample", "ignore_eos"}
STRUCTURED = {"bad_words_ids", "logit_bias", "exponential_decay_length_penalty"}
NOT_FINITE = (math.nan, math.inf, -math.inf)


def config(name: str, value: Any) -> GenerationConfig:
    return GenerationConfig(**{name: value})


def violations(name: str, value: Any) -> list[str]:
    return fields(Request(GOOD.prompt, config=config(name, value)))


def test_every_parameter_is_in_a_table_here() -> None:
    assert set(GenerationConfig.__slots__) == {*FLOATS, *INTS, *ID_LISTS, *UNBOUNDED, *STRUCTURED}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name, (_, bad) in (FLOATS | INTS).items() for value in bad),
        *((name, value) for name in FLOATS for value in NOT_FINITE),
        ("max_new_tokens", 100),
        ("max_new_tokens", 2**31 - 1),
        ("min_new_tokens", 100),
    ],
)
def test_a_value_out_of_range_is_named_by_its_path(name: str, value: float) -> None:
    assert violations(name, value) == [f"generation_config.{name}"]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (good, _) in (FLOATS | INTS).items() for value in good]
)
def test_the_ends_of_a_range_are_allowed(name: str, value: float) -> None:
    assert violations(name, value) == []


@pytest.mark.parametrize(("name", "limit"), ID_LISTS.items())
def test_a_list_of_ids_is_of_the_vocabulary_and_not_too_long(name: str, limit: int) -> None:
    assert violations(name, (0, 49) * (limit // 2)) == []
    assert violations(name, (0,) * (limit + 1)) == [f"generation_config.{name}"]
    assert violations(name, (0, 7, 50, -1)) == [f"generation_config.{name}[2]"]
    assert violations(name, (0, -1)) == [f"generation_config.{name}[1]"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (((1,) * 64,) * 1024, []),
        (((1,),) * 1025, ["bad_words_ids"]),
        (((1,), ()), ["bad_words_ids[1].ids"]),
        (((1,) * 65,), ["bad_words_ids[0].ids"]),
        (((1,), (2, 50), (-1,)), ["bad_words_ids[1].ids[1]", "bad_words_ids[2].ids[0]"]),
    ],
)
def test_bad_words_are_few_short_and_of_the_vocabulary(value: tuple[tuple[int, ...], ...], expected: list[str]) -> None:
    assert violations("bad_words_ids", value) == [f"generation_config.{name}" for name in expected]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (((0, -1000.0), (49, 1000.0)), []),
        (((0, 0.0),) * 1025, ["logit_bias"]),
        (((50, 1.0),), ["logit_bias[50]"]),
        (((-1, 1.0),), ["logit_bias[-1]"]),
        (((1, 1000.1), (2, -1000.1), (3, math.nan)), ["logit_bias[1]", "logit_bias[2]", "logit_bias[3]"]),
    ],
)
def test_biases_are_few_finite_and_of_the_vocabulary(value: tuple[tuple[int, float], ...], expected: list[str]) -> None:
    assert violations("logit_bias", value) == [f"generation_config.{name}" for name in expected]


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (ExponentialDecay(0, 100.0), []),
        (ExponentialDecay(-1, 1.0), ["start_index"]),
        (ExponentialDecay(0, 0.0), ["factor"]),
        (ExponentialDecay(0, 100.1), ["factor"]),
        (ExponentialDecay(-1, math.nan), ["start_index", "factor"]),
    ],
)
def test_the_decay_has_a_start_and_a_factor(decay: ExponentialDecay, expected: list[str]) -> None:
    prefix = "generation_config.exponential_decay_length_penalty"

    assert violations("exponential_decay_length_penalty", decay) == [f"{prefix}.{name}" for name in expected]


def test_the_valid_part_of_a_models_config_has_no_violations() -> None:
    own = GenerationConfig(
        temperature=math.nan,
        top_k=7,
        top_p=0.0,
        suppress_tokens=(3, 50),
        bad_words_ids=((1,), (50,)),
        exponential_decay_length_penalty=ExponentialDecay(3, -1.0),
        begin_suppress_tokens=(4,),
    )

    valid, wrong = valid_part(own, FACTS.vocab_size)

    assert valid == GenerationConfig(top_k=7, begin_suppress_tokens=(4,))
    assert not list(config_violations(valid, FACTS.vocab_size))
    assert {violation.field for violation in wrong} == {
        "temperature",
        "top_p",
        "suppress_tokens[1]",
        "bad_words_ids[1].ids[0]",
        "exponential_decay_length_penalty.factor",
    }
