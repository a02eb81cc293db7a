"""Every value of a generation config has a range, whose ends are allowed and what lies beyond is named by its path."""

import math
from typing import Any

import pytest

from gateway.domain.generation_config import ExponentialDecay, GenerationConfig, config_violations, valid_part
from gateway.domain.request import Request
from tests.gateway.requests import FACTS, GOOD, fields
from tests.parameters import MOST_IDS, PARAMETERS

RANGES = {name: row for name, row in PARAMETERS.items() if row.good}
FLOATS = [name for name, row in RANGES.items() if isinstance(row.good[0], float)]
UNBOUNDED = {"do_sample", "ignore_eos"}
STRUCTURED = {"bad_words_ids", "logit_bias", "exponential_decay_length_penalty"}
NOT_FINITE = (math.nan, math.inf, -math.inf)


def config(name: str, value: Any) -> GenerationConfig:
    return GenerationConfig(**{name: value})


def violations(name: str, value: Any) -> list[str]:
    return fields(Request(GOOD.prompt, config=config(name, value)))


def test_every_parameter_is_in_a_table_here() -> None:
    assert set(GenerationConfig.__slots__) == {*RANGES, *MOST_IDS, *UNBOUNDED, *STRUCTURED}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name, row in RANGES.items() for value in row.bad),
        *((name, value) for name in FLOATS for value in NOT_FINITE),
        ("max_new_tokens", 100),
        ("max_new_tokens", 2**31 - 1),
        ("min_new_tokens", 100),
    ],
)
def test_a_value_out_of_range_is_named_by_its_path(name: str, value: float) -> None:
    assert violations(name, value) == [f"generation_config.{name}"]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in RANGES.items() for value in row.good])
def test_the_ends_of_a_range_are_allowed(name: str, value: float) -> None:
    assert violations(name, value) == []


@pytest.mark.parametrize(("name", "limit"), MOST_IDS.items())
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
