"""`textserve-worker quantize`: what it writes is what the worker would have made of the original."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from tests.worker.tiny_models import VOCAB_SIZE, save_tiny_llama, tiny_llama, tiny_tokenizer
from worker.cli import EX_CONFIG, main
from worker.domain.config import Config, Quantization
from worker.loading.loading import LoadedModel, load
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.quantize import quantize

ROOT = Path(__file__).parents[2]
PROMPT = torch.tensor([[5, 6, 7, 8]])


def quantized(source: Path, out: Path, *, dtype: Any = "float32", **changes: Any) -> tuple[LoadedModel, LoadedModel]:
    """Returns a model quantized while it is loaded, and the same loaded from a checkpoint written before."""
    config = Config(model=str(source), name="same", compute_dtype=dtype, **changes)
    quantize(config, out)
    return load(config), load(Config(model=str(out), name="same", compute_dtype=dtype))


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = loaded.model(PROMPT).logits
    return output


def greedy(loaded: LoadedModel) -> list[int]:
    output: torch.Tensor = loaded.model.generate(PROMPT, max_new_tokens=24, do_sample=False)
    return output[0].tolist()


def dequantized(loaded: LoadedModel) -> LoadedModel:
    """Replaces the 4-bit layers by what they stand for, in float32: exact arithmetic on any machine."""
    for name, layer in list(loaded.model.named_modules()):
        if isinstance(layer, bnb.nn.Linear4bit):
            plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
            weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
            loaded.model.set_submodule(name, plain)
    return loaded


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": "nf4"},
        {"quantization": "nf4", "double_quantization": False},
        {"quantization": "fp4", "skip_modules": ("q_proj",)},
        {"quantization": "int8"},
        {"quantization": "int8", "int8_threshold": 0.0},
    ],
    ids=str,
)
def test_the_checkpoint_is_the_model_that_quantizing_at_load_gives(
    llama_folder: Path, tmp_path: Path, dtype: str, changes: dict[str, Any]
) -> None:
    direct, written = quantized(llama_folder, tmp_path / "out", dtype=dtype, **changes)
    assert written.facts == direct.facts
    assert written.tokenizer == direct.tokenizer
    assert torch.equal(logits(written), logits(direct))
    assert greedy(written) == greedy(direct)


def test_dequantized_to_float32_the_logits_are_equal_to_the_last_bit(llama_folder: Path, tmp_path: Path) -> None:
    direct, written = (dequantized(each) for each in quantized(llama_folder, tmp_path / "out"))
    assert logits(direct).dtype is torch.float32
    assert torch.equal(logits(written), logits(direct))


def test_a_16_bit_model_may_be_served_with_another_compute_type_than_it_was_quantized_with(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny_llama().bfloat16().save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    quantize(Config(model=str(source), compute_dtype="bfloat16"), tmp_path / "out")
    direct, written = (
        load(Config(model=str(folder), name="same", compute_dtype="float32")) for folder in (source, tmp_path / "out")
    )
    assert written.facts == direct.facts
    assert torch.equal(logits(written), logits(direct))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_other_kinds_of_weights_come_through(tmp_path: Path, kind: Quantization) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 320}
    mixture = MixtralConfig(num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, **sizes)
    gpt2 = GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=VOCAB_SIZE, n_positions=64)
    for number, model in enumerate([MixtralForCausalLM(mixture), GPT2LMHeadModel(gpt2)]):
        source = tmp_path / f"source{number}"
        model.save_pretrained(source)
        tiny_tokenizer().save_pretrained(source)
        direct, written = quantized(source, tmp_path / f"out{number}", quantization=kind)
        assert written.facts == direct.facts
        assert torch.equal(logits(written), logits(direct))


def test_tokenizer_chat_template_and_generation_config_come_along(tmp_path: Path) -> None:
    source = save_tiny_llama(tmp_path / "source", num_hidden_layers=1)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(source)
    # As many checkpoints have it, and transformers refuses to save: a temperature without sampling.
    settings = {"do_sample": False, "temperature": 0.6, "eos_token_id": [1, 5], "suppress_tokens": [3]}
    (source / "generation_config.json").write_text(json.dumps(settings))
    direct, written = quantized(source, tmp_path / "out")
    assert written.tokenizer == direct.tokenizer
    assert written.tokenizer.chat_template == "{{ messages }}"
    assert written.facts.defaults == direct.facts.defaults
    assert written.facts.defaults.temperature == 0.6
    assert written.facts.eos_token_ids == (1, 5)


def test_a_checkpoint_without_a_generation_config_still_ends(tmp_path: Path) -> None:
    source = save_tiny_llama(tmp_path / "source", num_hidden_layers=1)
    (source / "generation_config.json").unlink()
    direct, written = quantized(source, tmp_path / "out")
    assert written.facts == direct.facts
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 1


def test_the_weights_are_smaller_and_the_line_tells_by_how_much(llama_folder: Path, tmp_path: Path) -> None:
    line = quantize(Config(model=str(llama_folder)), tmp_path / "out")
    before, after = ((folder / "model.safetensors").stat().st_size for folder in (llama_folder, tmp_path / "out"))
    assert after < before / 2
    assert f"nf4, 73 % of 152,000 parameters, {before / 2**20:.1f} MiB to {after / 2**20:.1f} MiB, " in line


def refusal(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the command in this process; it must end with 78 and one line, which is returned."""
    assert main(["quantize", *arguments]) == EX_CONFIG
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("textserve-worker: ")
    return line


def test_a_folder_that_is_not_empty_is_left_alone_unless_told(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("old weights")
    assert "is not empty; --overwrite" in refusal(str(llama_folder), str(tmp_path), capsys=capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-00001-of-00002.safetensors", "notes.txt"]
    assert main(["quantize", str(llama_folder), str(tmp_path), "--overwrite"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"notes.txt", "config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert "model-00001-of-00002.safetensors" not in names
    assert not [name for name in names if name.startswith(".")]


def test_the_model_is_not_overwritten_by_itself(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(llama_folder)
    assert "is the model itself" in refusal(folder, folder, "--overwrite", capsys=capsys)


def test_what_cannot_be_quantized_is_refused_before_anything_is_written(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, once, file = tmp_path / "out", tmp_path / "once", tmp_path / "file"
    file.write_text("")
    quantize(Config(model=str(llama_folder)), once)
    for arguments, reason in (
        ([str(once), str(out)], "quantized already"),
        ([str(llama_folder), str(out), "--quantization", "none"], "nothing to do"),
        ([str(tmp_path / "nowhere"), str(out)], "there is no such folder"),
        ([str(llama_folder), str(file)], "is not a folder"),
        ([str(llama_folder), str(out), "--skip-modules", "nonsense"], "no linear layer"),
        ([str(llama_folder), str(out), "--device-map", "nonsense"], "--device-map"),
    ):
        assert reason in refusal(*arguments, capsys=capsys)
        assert not out.exists()


def test_what_fails_midway_leaves_nothing_that_looks_like_a_model(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        quantize(Config(model=str(llama_folder)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "worker", "quantize", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_command_writes_a_checkpoint_and_prints_one_line(llama_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run(str(llama_folder), str(out), "--quantization", "fp4", "--no-double-quantization", "--threads", "1")
    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 1), ended.stderr
    assert ended.stdout.startswith(f"textserve-worker quantized {llama_folder} to {out}: fp4, 73 % of ")
    assert load(Config(model=str(out))).facts.quantization == "fp4"
