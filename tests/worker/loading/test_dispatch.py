"""A model that is split between CPU and disk computes the same, and says where it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, MixtralConfig, MixtralForCausalLM

from tests.worker.tiny_models import VOCAB_SIZE, save_tiny_llama, tiny_tokenizer
from worker.assembly import assemble
from worker.domain.config import Config
from worker.domain.sequence import Root, SamplingParameters, Sequence
from worker.loading.dispatch import input_device, offload_places, offloaded_bytes
from worker.loading.loading import LoadedModel, load
from worker.loading.probe import layer_layouts

CPU = torch.device("cpu")
SPLIT = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
EMBEDDINGS_TOO = SPLIT | {"model.embed_tokens": "disk"}
ALL = {"": "disk"}


def load_split(folder: Path, device_map: dict[str, str], **changes: Any) -> LoadedModel:
    settings: dict[str, Any] = {"quantization": "none", "compute_dtype": "float32"}
    return load(Config(model=str(folder), device_map=json.dumps(device_map), **(settings | changes)))


def logits(loaded: LoadedModel) -> torch.Tensor:
    """Returns the logits of a prompt and, with the cache that it left, of a second step."""
    cache = DynamicCache(config=loaded.model.config)
    tokens = torch.tensor([[5, 6, 7, 8]], device=loaded.input_device)
    with torch.inference_mode():
        first = loaded.model(tokens, past_key_values=cache, use_cache=True).logits
        second = loaded.model(tokens[:, :1], past_key_values=cache, use_cache=True).logits
    return torch.cat([first, second], dim=1)


@pytest.mark.parametrize("device_map", [SPLIT, EMBEDDINGS_TOO, ALL], ids=["split", "embeddings", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_with_layers_on_disk_is_the_same_model(
    llama_folder: Path, device_map: dict[str, str], dtype: str
) -> None:
    whole = load_split(llama_folder, {"": "cpu"}, compute_dtype=dtype)
    split = load_split(llama_folder, device_map, compute_dtype=dtype)
    assert offloaded_bytes(split.model) > offloaded_bytes(whole.model) == 0
    assert (whole.facts.devices, split.facts.devices) == (("cpu",), ("cpu", "disk"))
    assert split.input_device == CPU
    assert split.facts.fingerprint == whole.facts.fingerprint
    assert layer_layouts(split.model) == layer_layouts(whole.model)
    assert torch.equal(logits(split), logits(whole))


def generated(loaded: LoadedModel) -> list[list[int]]:
    """Returns what the engine generates for three prompts of different lengths at once."""
    engine = assemble(loaded, Config(memory_gib=0.01, max_rows=4))
    greedy = SamplingParameters(max_new_tokens=20)
    sequences = [Sequence(number, list(range(5, 8 + number)), greedy) for number in range(3)]
    for sequence in sequences:
        engine.scheduler.submit(Root(sequence.prompt, [sequence]))
    while engine.scheduler.has_work:
        engine.step()
    return [sequence.output for sequence in sequences]


@pytest.mark.parametrize("device_map", [SPLIT, ALL], ids=["split", "all"])
def test_the_engine_generates_the_same_with_layers_on_disk(llama_folder: Path, device_map: dict[str, str]) -> None:
    outputs = generated(load_split(llama_folder, device_map))
    assert outputs == generated(load_split(llama_folder, {"": "cpu"}))
    assert all(outputs)


def test_tied_embeddings_on_disk_are_found(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, tie_word_embeddings=True)
    device_map = EMBEDDINGS_TOO | {"lm_head": "disk"}
    whole, split = load_split(folder, {"": "cpu"}), load_split(folder, device_map)
    assert split.facts.fingerprint == whole.facts.fingerprint
    assert torch.equal(logits(split), logits(whole))


def test_a_model_that_is_wholly_in_memory_is_offloaded_nowhere(llama_folder: Path) -> None:
    loaded = load_split(llama_folder, {"": "cpu"})
    assert offload_places(loaded.model) == ()
    assert input_device(loaded.model) == CPU


def test_a_line_says_how_much_is_on_disk_and_that_this_is_slow(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="worker"):
        loaded = load_split(llama_folder, SPLIT)
    mebibytes = offloaded_bytes(loaded.model) / 2**20
    assert (
        f"{mebibytes:.1f} MiB more are offloaded to disk and fetched anew in every step, which is slow" in caplog.text
    )
    assert "on cpu+disk in" in caplog.text


def test_what_does_not_fit_into_max_memory_goes_to_disk(llama_folder: Path) -> None:
    whole = load_split(llama_folder, {"": "cpu"})
    config = Config(model=str(llama_folder), quantization="none", compute_dtype="float32", max_memory="cpu=0.3MB")
    split = load(config)
    assert split.facts.devices == ("cpu", "disk")
    assert torch.equal(logits(split), logits(whole))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts, whose weights transformers fuses while it loads them."""
    folder = tmp_path_factory.mktemp("mixture")
    config = MixtralConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        vocab_size=VOCAB_SIZE,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_weights_that_are_converted_go_to_the_offload_folder(mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --offload-folder"):
        load_split(mixture, SPLIT)
    split = load_split(mixture, SPLIT, offload_folder=str(tmp_path))
    assert list(tmp_path.iterdir())
    assert torch.equal(logits(split), logits(load_split(mixture, {"": "cpu"})))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(
    "placement", [{"device_map": json.dumps(SPLIT)}, {"max_memory": "cpu=0.1MB"}], ids=["map", "memory"]
)
def test_quantized_weights_cannot_be_offloaded(
    llama_folder: Path, quantization: Any, placement: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"quantized weights cannot be offloaded.*--quantization none"):
        load(Config(model=str(llama_folder), quantization=quantization, **placement))
