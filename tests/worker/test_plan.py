"""The command `textserve-worker plan`."""

import json
from pathlib import Path

import pytest

from worker.cli import EX_CONFIG, main

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return str(tmp_path)


def test_a_plan_is_printed_from_config_json_alone(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", model, "--memory", "24GiB", "--max-rows", "16"]) == 0
    printed = {line[:16].strip(): line[16:].split() for line in capsys.readouterr().out.splitlines()}
    assert float(printed["weights"][0]) == pytest.approx(5.21, abs=0.01)
    assert printed["rows"] == ["16"]
    assert printed["context"][0] == "8,192"
    assert sum(float(words[0]) for words in printed.values() if words[-1] == "GiB") == pytest.approx(24, abs=0.1)


def test_what_does_not_fit_is_refused_in_a_sentence(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", model, "--memory", "5GiB"]) == EX_CONFIG
    error = capsys.readouterr().err
    assert "cannot be served with 5GiB: it needs 6.5 GiB" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("memory", ["24", "much", "-1GiB"])
def test_memory_has_a_unit(model: str, memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", model, f"--memory={memory}"]) == EX_CONFIG
    assert "no size such as 20GiB" in capsys.readouterr().err
