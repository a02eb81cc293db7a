"""What a worker's log says about the model that it has loaded."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.worker.tiny_models import VOCAB_SIZE, save_tiny_llama, tiny_tokenizer
from worker.domain.config import Config
from worker.loading.loading import LoadedModel, load

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "vocab_size": VOCAB_SIZE,
}


def load_saved(model: Any, folder: Path, **changes: Any) -> LoadedModel:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load(Config(model=str(folder), **changes))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "worker.loading.load_report"]


def test_one_line_tells_size_share_and_time(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="worker"):
        loaded = load(Config(model=str(llama_folder)))
    line, _ = lines(caplog)
    assert line.startswith("loaded tiny-llama (LlamaForCausalLM) on cpu in ")
    assert f"{loaded.model.get_memory_footprint() / 2**20:.1f} MiB" in line
    assert f"{100 * loaded.facts.quantized_share:.0f} % of them nf4 with double quantization" in line


def test_a_second_line_tells_the_seconds_of_each_part_and_the_memory(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="worker"):
        load(Config(model=str(llama_folder)))
    _, line = lines(caplog)
    parts = r"tokenizer [\d.]+ s, weights [\d.]+ s, fingerprint [\d.]+ s, begun [\d.]+ s after the process"
    memory = r"memory of the process (\d+) MiB before, at most (\d+) MiB until now"
    found = re.fullmatch(f"loading took: {parts}; {memory}", line)
    assert found
    assert 0 < int(found[1]) <= int(found[2])


@pytest.mark.parametrize(
    "model",
    [MixtralForCausalLM(MixtralConfig(**SIZES)), GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=16))],
    ids=lambda model: type(model).__name__,
)
def test_a_mixture_of_fused_experts_says_why_so_little_of_it_is_4_bit(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_saved(model, tmp_path)
    assert 0 < loaded.facts.quantized_share < 0.5
    (line,) = [line for line in caplog.messages if line.startswith("only ")]
    experts = sum(each.numel() for each in loaded.model.parameters() if each.dim() == 3)
    total = sum(each.numel() for each in model.parameters())
    assert f"only {100 * loaded.facts.quantized_share:.0f} % of the parameters are quantized" in line
    assert f"{100 * experts / total:.0f} % are experts fused into 3-D tensors" in line


def test_a_model_that_is_mostly_vocabulary_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_tiny_llama(tmp_path, vocab_size=5000, num_hidden_layers=1)
    assert load(Config(model=str(folder))).facts.quantized_share < 0.5
    assert "because the others are embeddings, the head" in caplog.text


def test_a_model_that_is_mostly_4_bit_or_not_to_be_quantized_says_nothing(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(Config(model=str(llama_folder)))
    load_saved(MixtralForCausalLM(MixtralConfig(**SIZES)), tmp_path, quantization="none")
    assert "of the parameters are quantized" not in caplog.text
