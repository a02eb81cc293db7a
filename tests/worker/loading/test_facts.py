"""What a worker knows of its model."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    Qwen2Config,
)

from worker.loading.facts import context_length

UNKNOWN_LENGTH = SimpleNamespace(model_max_length=10**30)


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
