"""What is loaded, and what is refused with a line that says why."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import MambaConfig, MambaForCausalLM

from tests.worker.tiny_models import EOS, save_tiny_llama, tiny_tokenizer
from worker.domain.config import Config, Quantization
from worker.loading.loading import LoadedModel, _own_name, load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of its own, for a test that breaks something in it."""
    return save_tiny_llama(tmp_path / "model", num_hidden_layers=1)


def load_plainly(folder: Path) -> LoadedModel:
    return load(Config(model=str(folder), quantization="none"))


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_loaded_model_tells_what_it_is(llama_folder: Path) -> None:
    loaded = load(Config(model=str(llama_folder), compute_dtype="float32"))
    facts = loaded.facts
    assert (facts.name, facts.architecture) == ("tiny-llama", "LlamaForCausalLM")
    assert (facts.context_length, facts.vocab_size) == (128, 320)
    assert facts.eos_token_ids == (EOS,)
    assert facts.devices == tuple({str(parameter.device) for parameter in loaded.model.parameters()})
    assert not loaded.model.training


def test_a_given_name_wins_over_the_folders(llama_folder: Path) -> None:
    assert load(Config(model=str(llama_folder), quantization="none", name="mine")).facts.name == "mine"


def test_the_pad_token_is_the_end_of_sequence_where_none_is_set(folder: Path) -> None:
    assert tiny_tokenizer().pad_token is None
    loaded = load_plainly(folder)
    assert loaded.pad_token_id == EOS
    assert loaded.tokenizer.special_tokens["pad_token"] == "</s>"


def test_a_pad_token_of_the_model_is_kept(folder: Path) -> None:
    change(folder / "tokenizer_config.json", pad_token="<s>")
    assert load_plainly(folder).pad_token_id == 0


def test_a_pad_token_that_the_model_does_not_know_is_replaced(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, num_hidden_layers=1, vocab_size=200)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > 200
    assert load_plainly(folder).pad_token_id == EOS


def test_a_model_without_any_special_token_pads_with_a_legal_one(folder: Path) -> None:
    change(folder / "tokenizer_config.json", bos_token=None, eos_token=None)
    change(folder / "generation_config.json", eos_token_id=None)
    change(folder / "config.json", eos_token_id=None)
    loaded = load_plainly(folder)
    assert loaded.facts.eos_token_ids == ()
    assert loaded.pad_token_id == 0


def test_generation_defaults_are_those_of_the_models_own_file(folder: Path) -> None:
    change(folder / "generation_config.json", do_sample=True, top_k=7, temperature=0.5)
    defaults = load_plainly(folder).facts.defaults
    assert (defaults.do_sample, defaults.top_k, defaults.temperature) == (True, 7, 0.5)
    assert {value for value in vars(defaults).values() if value not in {True, 7, 0.5}} == {None}


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    change(folder / "config.json", hidden_size=128)
    with pytest.raises(
        ValueError, match=r"model\.safetensors: lm_head\.weight has the shape \[320, 64\], .* \[320, 128\]"
    ):
        load_plainly(folder)


def test_a_checkpoint_without_all_weights_is_refused(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"lacks 9 weights, such as model\.layers\.1\.input_layernorm\.weight"):
        load_plainly(folder)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    assert (
        load_plainly(save_tiny_llama(tmp_path, num_hidden_layers=1, tie_word_embeddings=True)).facts.vocab_size == 320
    )


MARKER = "a_model_ran_its_own_code"
NO_CODE = "textserve runs no code from model folders"


@pytest.fixture
def agreeable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody at the terminal who would say yes to anything: nobody may be asked."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")


def plant_code(folder: Path) -> None:
    """Puts a module into a model's folder that shows if it was run."""
    (folder / "planted.py").write_text(f"import sys\nsys.{MARKER} = True\n")
    auto_map = {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"}
    change(folder / "config.json", auto_map=auto_map)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "planted.Tokenizer"]})


@pytest.mark.usefixtures("agreeable")
def test_a_model_that_needs_its_own_code_is_refused_and_the_code_not_run(folder: Path) -> None:
    plant_code(folder)
    change(folder / "config.json", model_type="planted", architectures=["PlantedForCausalLM"])
    with pytest.raises(ValueError, match=NO_CODE):
        load_plainly(folder)
    assert not hasattr(sys, MARKER)


@pytest.mark.usefixtures("agreeable")
def test_a_tokenizer_that_needs_its_own_code_is_refused_and_the_code_not_run(folder: Path) -> None:
    plant_code(folder)
    change(folder / "tokenizer_config.json", tokenizer_class="Planted")
    with pytest.raises(ValueError, match=NO_CODE):
        load_plainly(folder)
    assert not hasattr(sys, MARKER)


@pytest.mark.usefixtures("agreeable")
def test_code_beside_a_model_that_does_not_need_it_is_not_run(folder: Path) -> None:
    plant_code(folder)
    assert load_plainly(folder).facts.architecture == "LlamaForCausalLM"
    assert not hasattr(sys, MARKER)


@pytest.mark.parametrize(("model", "name"), [("org/model", "org/model"), (".", Path.cwd().name)])
def test_a_model_is_served_under_its_hub_name_or_the_folders_last_part(model: str, name: str) -> None:
    assert _own_name(model) == name


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "mxfp4", "compressed-tensors", "never heard of"])
def test_a_checkpoint_of_another_quantization_method_is_refused_by_name(folder: Path, method: str) -> None:
    change(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(ValueError, match=f"quantized with {method}; textserve serves .* bitsandbytes to 4 or 8 bit"):
        load_plainly(folder)


def test_the_older_name_of_a_quantization_is_known_too(folder: Path) -> None:
    change(folder / "config.json", compression_config={"quant_method": "compressed-tensors"})
    with pytest.raises(ValueError, match="quantized with compressed-tensors"):
        load_plainly(folder)


@pytest.mark.parametrize("settings", [{"bits": 4}, {"quant_method": "bitsandbytes"}], ids=str)
def test_a_quantization_that_tells_too_little_is_refused(folder: Path, settings: dict[str, Any]) -> None:
    change(folder / "config.json", quantization_config=settings)
    with pytest.raises(ValueError, match="its checkpoint is quantized with"):
        load_plainly(folder)


def test_the_context_can_be_shortened_and_not_lengthened(folder: Path) -> None:
    assert load(Config(model=str(folder), context_length=100)).facts.context_length == 100
    with pytest.raises(ValueError, match="129 is above the model's own 128"):
        load(Config(model=str(folder), context_length=129))


@pytest.mark.parametrize(("asked", "length"), [(0, 2048), (5000, 5000)])
def test_a_state_space_model_needs_no_context_length(tmp_path: Path, asked: int, length: int) -> None:
    config = MambaConfig(vocab_size=320, hidden_size=64, num_hidden_layers=1, state_size=4, use_mambapy=False)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load(Config(model=str(tmp_path), quantization="none", context_length=asked))
    assert loaded.facts.context_length == length


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_a_model_from_a_folder_is_loaded_without_the_network(
    folder: Path, quantization: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **_: Any) -> None:
        raise AssertionError(f"somebody wants to connect: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load(Config(model=str(folder), quantization=quantization)).facts.quantization == quantization


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ('{"model": "cpu", "no.such.module": "cpu"}', "no.such.module"),
        ('{"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu"}', "no device for 1 weights"),
        ("cuda:99", "names device cuda:99"),
        ('{"": 99}', "names device 99"),
    ],
)
def test_a_device_map_that_does_not_fit_model_or_machine_is_refused(
    folder: Path, device_map: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(Config(model=str(folder), device_map=device_map))
