"""What a request sets must fit together, and be what a worker and the way of delivery can give."""

from dataclasses import replace

import pytest

from gateway.domain.generation_config import GenerationConfig
from gateway.domain.request import OutputOptions, Request
from gateway.request.validation import contradictions
from tests.gateway.requests import FACTS, GOOD, fields


def asking(*, stops: tuple[str, ...] = (), is_stream: bool = False, **config: object) -> Request:
    output = OutputOptions(**{name: config.pop(name) for name in list(config) if name in OutputOptions.__slots__})  # type: ignore[arg-type]
    generation_config = GenerationConfig(**config)  # type: ignore[arg-type]
    return Request(GOOD.prompt, config=generation_config, stop_sequences=stops, output=output, is_stream=is_stream)


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (asking(temperature=0.0, do_sample=True), "do_sample", "CONTRADICTION"),
        (asking(num_beams=2, do_sample=True), "do_sample", "CONTRADICTION"),
        (asking(num_return_sequences=2), "num_return_sequences", "CONTRADICTION"),
        (asking(num_return_sequences=2, temperature=0.0, top_p=0.5), "num_return_sequences", "CONTRADICTION"),
        (asking(num_return_sequences=3, num_beams=2), "num_return_sequences", "CONTRADICTION"),
        (asking(num_return_sequences=3, best_of=2, do_sample=True), "best_of", "CONTRADICTION"),
        (asking(best_of=2, num_beams=2), "best_of", "CONTRADICTION"),
        (asking(best_of=2, is_stream=True, do_sample=True), "best_of", "NOT_STREAMABLE"),
        (asking(num_beams=2, is_stream=True), "num_beams", "NOT_STREAMABLE"),
        (asking(num_return_sequences=9, do_sample=True), "num_return_sequences", "TOO_MANY_ROWS"),
        (asking(best_of=9, do_sample=True), "best_of", "TOO_MANY_ROWS"),
        (asking(num_beams=9), "num_beams", "TOO_MANY_ROWS"),
        (asking(min_new_tokens=5, max_new_tokens=4), "min_new_tokens", "CONTRADICTION"),
        (asking(allowed_token_ids=(3, 4), suppress_tokens=(4, 5, 3)), "allowed_token_ids", "CONTRADICTION"),
        (asking(suppress_tokens=tuple(range(50))), "suppress_tokens", "CONTRADICTION"),
        (asking(num_beams=2, logprobs=True), "output_options.logprobs", "CONTRADICTION"),
        (asking(num_beams=2, stops=("x",)), "stop_sequences", "CONTRADICTION"),
        (asking(top_logprobs=1), "output_options.top_logprobs", "CONTRADICTION"),
    ],
)
def test_a_contradiction_is_named_by_its_path(request_: Request, field: str, reason: str) -> None:
    (violation,) = contradictions(request_, FACTS)

    path = field if field.startswith(("output_options", "stop")) else f"generation_config.{field}"
    assert (violation.field, violation.reason) == (path, reason)
    assert fields(request_) == [path]


@pytest.mark.parametrize(
    "request_",
    [
        asking(num_return_sequences=2, temperature=0.7, is_stream=True),
        asking(num_return_sequences=2, epsilon_cutoff=0.1),
        asking(num_return_sequences=2, typical_p=0.9),
        asking(num_return_sequences=2, num_beams=2),
        asking(num_return_sequences=8, do_sample=True),
        asking(num_return_sequences=2, best_of=2, is_stream=True, do_sample=True),
        asking(num_return_sequences=2, best_of=8, do_sample=True),
        asking(num_beams=8, do_sample=False),
        asking(num_beams=2, temperature=0.7),
        asking(num_beams=2, prompt_logprobs=True, top_logprobs=5),
        asking(num_beams=1, is_stream=True, stops=("x",), logprobs=True),
        asking(min_new_tokens=4, max_new_tokens=4),
        asking(allowed_token_ids=(3, 4), suppress_tokens=(3,)),
        asking(suppress_tokens=(*range(49), *range(9))),
        asking(prompt_logprobs=True, echo=True),
    ],
)
def test_what_fits_together_is_allowed(request_: Request) -> None:
    assert fields(request_) == []


def test_the_model_may_be_the_one_that_makes_candidates_differ() -> None:
    samples = replace(FACTS, generation_defaults=GenerationConfig(do_sample=True))

    assert fields(asking(num_return_sequences=2), samples) == []
    assert fields(asking(num_return_sequences=2, do_sample=False), samples) == [
        "generation_config.num_return_sequences"
    ]


def test_too_many_rows_are_told_both_numbers() -> None:
    (violation,) = contradictions(asking(num_beams=12), FACTS)

    assert "12 rows" in violation.description
    assert "8" in violation.description


def test_all_contradictions_come_at_once() -> None:
    everything = asking(
        num_beams=9, do_sample=True, best_of=1, num_return_sequences=10, stops=("x",), logprobs=True, is_stream=True
    )

    assert set(fields(everything)) == {
        "generation_config.num_beams",
        "generation_config.do_sample",
        "generation_config.best_of",
        "generation_config.num_return_sequences",
        "stop_sequences",
        "output_options.logprobs",
    }
