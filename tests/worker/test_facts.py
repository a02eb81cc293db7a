"""What a worker knows of its model."""

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    Qwen2Config,
)

from textserve.v1 import generation_pb2
from worker.facts import GenerationDefaults, context_length, eos_token_ids

UNKNOWN_LENGTH = SimpleNamespace(model_max_length=10**30)


@pytest.mark.parametrize(
    ("configured", "of_tokenizer", "expected"),
    [(7, 9, (7,)), ([7, 8], 9, (7, 8)), (None, 9, (9,)), (None, None, ()), (0, 9, (0,)), (None, 0, (0,))],
)
def test_the_generation_config_says_what_ends_a_sequence_else_the_tokenizer(
    configured: Any, of_tokenizer: Any, expected: tuple[int, ...]
) -> None:
    found = eos_token_ids(SimpleNamespace(eos_token_id=configured), SimpleNamespace(eos_token_id=of_tokenizer))
    assert found == expected


@pytest.mark.parametrize(
    ("config", "expected"), [(LlamaConfig(max_position_embeddings=77), 77), (GPT2Config(n_positions=55), 55)]
)
def test_the_context_length_is_the_models(config: Any, expected: int) -> None:
    assert context_length(config, SimpleNamespace(model_max_length=5)) == expected


@pytest.mark.parametrize(("asked", "expected"), [(0, 77), (1, 1), (76, 76), (77, 77)])
def test_a_shorter_context_can_be_asked_for(asked: int, expected: int) -> None:
    config = LlamaConfig(max_position_embeddings=77)
    assert context_length(config, UNKNOWN_LENGTH, asked=asked) == expected


def test_a_longer_context_than_the_models_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="--context-length 78 is above the model's own 77"):
        context_length(LlamaConfig(max_position_embeddings=77), UNKNOWN_LENGTH, asked=78)


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
ORIGINAL = {"original_max_position_embeddings": 4096}
GEMMA: dict[str, Any] = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Qwen2Config(max_position_embeddings=32768, **rope("yarn", **YARN)), 131072),
        (Qwen2Config(max_position_embeddings=131072, **rope("yarn", **YARN)), 131072),
        (Qwen2Config(max_position_embeddings=200000, **rope("yarn", **YARN)), 200000),
        (Qwen2Config(max_position_embeddings=32768, **rope("yarn", factor=4.0)), 131072),
        (LlamaConfig(max_position_embeddings=4096, **rope("linear", factor=4.0)), 16384),
        (LlamaConfig(max_position_embeddings=4096, **rope("linear", factor=2.5)), 10240),
        (LlamaConfig(max_position_embeddings=4096, **rope("dynamic", factor=4.0)), 4096),
        (LlamaConfig(max_position_embeddings=131072, **rope("llama3", **LLAMA3)), 131072),
        (LlamaConfig(max_position_embeddings=4096, **rope("default")), 4096),
        (DeepseekV3Config(max_position_embeddings=163840, **rope("yarn", factor=40.0, **ORIGINAL)), 163840),
        (Gemma3TextConfig(max_position_embeddings=131072, **GEMMA), 131072),
    ],
    ids=lambda value: "" if isinstance(value, int) else type(value).__name__,
)
def test_a_fixed_scaling_counts_unless_the_stated_length_counts_it(config: Any, expected: int) -> None:
    assert context_length(config, UNKNOWN_LENGTH) == expected
    assert context_length(config, UNKNOWN_LENGTH, asked=expected) == expected
    with pytest.raises(ValueError, match=f"{expected + 1} is above the model's own {expected}"):
        context_length(config, UNKNOWN_LENGTH, asked=expected + 1)


WITHOUT_LENGTH = pytest.mark.parametrize("config", [BloomConfig(), MambaConfig(), Mamba2Config()], ids=type)


@WITHOUT_LENGTH
def test_the_context_length_is_the_tokenizers_where_the_model_says_nothing(config: Any) -> None:
    assert context_length(config, SimpleNamespace(model_max_length=1024)) == 1024


@WITHOUT_LENGTH
def test_a_model_without_a_limit_takes_any_context_that_is_asked_for(config: Any) -> None:
    assert context_length(config, SimpleNamespace(model_max_length=1024), asked=9000) == 9000
    assert context_length(config, UNKNOWN_LENGTH, asked=9000) == 9000


@WITHOUT_LENGTH
def test_where_nobody_names_a_context_length_it_is_2048_and_a_line_says_so(
    config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert context_length(config, UNKNOWN_LENGTH) == 2048
    assert "2048; --context-length" in caplog.text


def test_defaults_are_what_is_set_and_nothing_else() -> None:
    config = SimpleNamespace(temperature=0.0, top_k=0, do_sample=False, num_beams=4)
    assert GenerationDefaults.of(config) == GenerationDefaults(temperature=0.0, top_k=0, do_sample=False)


def test_a_generation_config_that_sets_nothing_gives_no_default() -> None:
    assert GenerationDefaults.of(GenerationConfig()) == GenerationDefaults()


EVERYTHING: dict[str, Any] = {
    "max_new_tokens": 5,
    "min_new_tokens": 2,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.25,
    "typical_p": 0.75,
    "epsilon_cutoff": 0.01,
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 4,
    "bad_words_ids": [[3], [4, 5]],
    "sequence_bias": [[[6], 1.5], [[7, 8], -2.0], [[9], -1.0]],
    "exponential_decay_length_penalty": [10, 1.25],
    "suppress_tokens": [11, 12],
    "begin_suppress_tokens": [13],
    "forced_bos_token_id": 14,
    "forced_eos_token_id": 15,
    "length_penalty": 0.5,
    "early_stopping": "never",
}
AS_TUPLES = {
    "bad_words_ids": ((3,), (4, 5)),
    "logit_bias": ((6, 1.5), (9, -1.0)),
    "exponential_decay_length_penalty": (10, 1.25),
    "suppress_tokens": (11, 12),
    "begin_suppress_tokens": (13,),
}


def test_every_default_is_read_from_a_file_as_a_plain_value(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(EVERYTHING))
    expected = GenerationDefaults(**{name: v for name, v in EVERYTHING.items() if name != "sequence_bias"} | AS_TUPLES)
    assert GenerationDefaults.of(GenerationConfig.from_pretrained(tmp_path)) == expected
    assert all(getattr(expected, field.name) is not None for field in fields(expected))
    assert hash(expected)


def test_a_bias_on_several_tokens_is_left_out_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    defaults = GenerationDefaults.of(SimpleNamespace(sequence_bias={(1, 2): 3.0}))
    assert defaults.logit_bias is None
    assert "1 sequences of several tokens" in caplog.text


def test_of_several_forced_ends_the_lowest_is_taken_as_greedy_decoding_does() -> None:
    assert GenerationDefaults.of(SimpleNamespace(forced_eos_token_id=[7, 5, 6])).forced_eos_token_id == 5


@pytest.mark.parametrize("name", ["bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"])
def test_an_empty_list_sets_nothing(name: str) -> None:
    assert GenerationDefaults.of(SimpleNamespace(**{name: []})) == GenerationDefaults()


NOT_FROM_THE_MODEL = {
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "allowed_token_ids",
    "stop_token_ids",
    "ignore_eos",
    "num_beams",
    "num_return_sequences",
    "best_of",
    "max_time",
}


def test_the_defaults_are_the_fields_of_the_api_but_those_that_are_the_callers_alone() -> None:
    of_api = set(generation_pb2.GenerationConfig.DESCRIPTOR.fields_by_name)
    assert of_api - NOT_FROM_THE_MODEL == {field.name for field in fields(GenerationDefaults)}
    assert of_api > NOT_FROM_THE_MODEL
