"""A checkpoint whose weights are not those of the model that config.json describes is refused by one line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DeepseekV3Config

from tests.worker.families import FAMILIES, tiny_model
from tests.worker.tiny_models import save_tiny_llama, tiny_tokenizer
from worker.domain.config import Config, Quantization
from worker.loading.loading import LoadedModel, load
from worker.loading.weights import load_weights, read_config

QUANTIZATIONS: tuple[Quantization, ...] = ("nf4", "int8", "none")
LAYER = "model.layers.0."
QUERY = f"{LAYER}self_attn.q_proj.weight"
DOWN = f"{LAYER}mlp.down_proj.weight"
Edit = Callable[[dict[str, Tensor]], None]


@dataclass(frozen=True)
class Wrong:
    """What is wrong with a folder, and what the line says of it."""

    says: tuple[str, ...]
    edit: Edit = lambda weights: None
    config: dict[str, Any] = field(default_factory=dict)


def put(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Edit:
    """Adds a weight."""
    return lambda weights: weights.update({name: torch.ones(shape).to(dtype)})


def spoil(name: str, value: float) -> Edit:
    """Changes one number of a weight."""

    def edit(weights: dict[str, Tensor]) -> None:
        weights[name].view(-1)[-1] = value

    return edit


def without(name: str) -> Edit:
    return lambda weights: weights.__delitem__(name)


PLAIN: dict[str, Wrong] = {
    "head_dim twice as large": Wrong(("k_proj.weight", "[32, 64]", "[64, 64]"), config={"head_dim": 32}),
    "head_dim half as large": Wrong(
        (f"{LAYER}self_attn.k_proj.weight", "[32, 64]", "[16, 64]"), config={"head_dim": 8}
    ),
    "another width": Wrong(("lm_head.weight", "[320, 64]", "[320, 32]"), config={"hidden_size": 32}),
    "a larger vocabulary": Wrong(("lm_head.weight", "[320, 64]", "[400, 64]"), config={"vocab_size": 400}),
    "another intermediate size": Wrong((DOWN, "[64, 128]", "[64, 96]"), config={"intermediate_size": 96}),
    "fewer groups of keys": Wrong(("k_proj.weight", "[32, 64]", "[16, 64]"), config={"num_key_value_heads": 1}),
    "fewer layers than there are": Wrong(
        ("model.layers.1.", "config.json does not count", "names 1"), config={"num_hidden_layers": 1}
    ),
    "more layers than there are": Wrong(("lacks 9 weights", "model.layers.2."), config={"num_hidden_layers": 3}),
    "a layer without a weight": Wrong(("lacks 1 weights", QUERY, "[64, 64]"), without(QUERY)),
    "a transposed weight": Wrong(
        (DOWN, "[128, 64]", "[64, 128]"), lambda weights: weights.update({DOWN: weights[DOWN].T.contiguous()})
    ),
    "scales of 8-bit floats": Wrong((f"{QUERY}_scale", "names no such quantization"), put(f"{QUERY}_scale", 1)),
    "scales of blocks": Wrong((f"{QUERY}_scale_inv", "names no such quantization"), put(f"{QUERY}_scale_inv", 1, 1)),
    "scales of inputs": Wrong(
        ("q_proj.input_scale", "names no such quantization"), put(f"{LAYER}self_attn.q_proj.input_scale", 1)
    ),
    "packed groups": Wrong(
        ("q_proj.qzeros", "names no such quantization"), put(f"{LAYER}self_attn.q_proj.qzeros", 4, 4)
    ),
    "scales of experts": Wrong(
        ("w1.weight_scale", "names no such quantization"), put(f"{LAYER}mlp.experts.0.w1.weight_scale", 1)
    ),
    "a bias that the config denies": Wrong(
        ("q_proj.bias", "[64]", "would compute without it"), put(f"{LAYER}self_attn.q_proj.bias", 64)
    ),
    "norms of another family": Wrong(
        ("q_norm.weight", "would compute without it"), put(f"{LAYER}self_attn.q_norm.weight", 16)
    ),
    "an adapter that is not merged": Wrong(
        ("lora_A.weight", "would compute without it"), put(f"{LAYER}self_attn.q_proj.lora_A.weight", 4, 64)
    ),
    "NaN in a layer": Wrong((QUERY, "NaN"), spoil(QUERY, float("nan"))),
    "NaN for a token that nobody tries": Wrong(
        ("model.embed_tokens.weight", "NaN"), spoil("model.embed_tokens.weight", float("nan"))
    ),
    "an infinity in a norm": Wrong(("model.norm.weight", "infinity"), spoil("model.norm.weight", float("inf"))),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("headers") / "plain", num_hidden_layers=2, head_dim=16)


def quantized_elsewhere(source: Path, folder: Path, **settings: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, device_map="cpu", quantization_config=BitsAndBytesConfig(**settings)
    )
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def four_bit(plain: Path) -> Path:
    settings: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return quantized_elsewhere(plain, plain.parent / "nf4", **settings)


@pytest.fixture(scope="module")
def eight_bit(plain: Path) -> Path:
    return quantized_elsewhere(plain, plain.parent / "int8", load_in_8bit=True)


def changed(source: Path, folder: Path, edit: Edit, config: dict[str, Any] | None = None) -> Path:
    """Returns a copy of a model's folder with other weights or another config; None takes a setting away."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | (config or {})
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    return folder


def weights_of(folder: Path, quantization: Quantization) -> Any:
    config = Config(model=str(folder), quantization=quantization, compute_dtype="float32")
    return load_weights(config, read_config(config))[0]


def refusal(folder: Path, quantization: Quantization = "nf4") -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        weights_of(folder, quantization)
    return str(caught.value)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("wrong", PLAIN.values(), ids=PLAIN)
def test_weights_of_another_model_are_refused_whatever_becomes_of_them(
    plain: Path, tmp_path: Path, wrong: Wrong, quantization: Quantization, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refusal(changed(plain, tmp_path / "wrong", wrong.edit, wrong.config), quantization)
    assert all(part in line for part in wrong.says), line
    assert "\n" not in line
    assert "LOAD REPORT" not in capfd.readouterr().err


STATE = f"{QUERY}.quant_state.bitsandbytes__nf4"


def cut(name: str) -> Edit:
    return lambda weights: weights.update({name: weights[name][: weights[name].shape[0] // 2].contiguous()})


def without_states(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if ".weight." in name]:
        del weights[name]


FOUR_BIT: dict[str, Wrong] = {
    "no quant_state": Wrong((QUERY, "no quant_state"), without(STATE)),
    "no absmax": Wrong((QUERY, "no absmax"), without(f"{QUERY}.absmax")),
    "no quant_map": Wrong((QUERY, "no quant_map"), without(f"{QUERY}.quant_map")),
    "no nested_absmax": Wrong((QUERY, "no nested_absmax"), without(f"{QUERY}.nested_absmax")),
    "no nested_quant_map": Wrong((QUERY, "no nested_quant_map"), without(f"{QUERY}.nested_quant_map")),
    "half of absmax": Wrong((f"{QUERY}.absmax", "[32]", "needs 64 numbers"), cut(f"{QUERY}.absmax")),
    "half of the weight": Wrong((QUERY, "needs 2048 numbers"), cut(QUERY)),
    "a damaged quant_state": Wrong((STATE, "not what bitsandbytes writes"), cut(STATE)),
    "a stripped config": Wrong((".weight.absmax", "names no such"), lambda _: None, {"quantization_config": None}),
    "layers that were never quantized": Wrong(
        (DOWN, "no quant_state", "not quantized to 4 bit, though config.json says so"),
        without_states,
    ),
    "another head_dim": Wrong(("k_proj.weight", "[32, 64]", "[64, 64]"), lambda _: None, {"head_dim": 32}),
    "NaN in nested_absmax": Wrong(("nested_absmax", "NaN"), spoil(f"{QUERY}.nested_absmax", float("nan"))),
}

EIGHT_BIT: dict[str, Wrong] = {
    "no SCB": Wrong((QUERY, "no SCB"), without(QUERY.replace("weight", "SCB"))),
    "half of SCB": Wrong(("q_proj.SCB", "[32]", "one a row"), cut(QUERY.replace("weight", "SCB"))),
    "a layer in 32 bit": Wrong((QUERY, "F32", "though config.json says so"), put(QUERY, 64, 64)),
    "a stripped config": Wrong((".SCB", "names no such"), lambda _: None, {"quantization_config": None}),
    "another head_dim": Wrong(("k_proj.weight", "[32, 64]", "[64, 64]"), lambda _: None, {"head_dim": 32}),
}


@pytest.mark.parametrize("wrong", FOUR_BIT.values(), ids=FOUR_BIT)
def test_a_4_bit_checkpoint_that_lacks_what_dequantizes_it_is_refused(
    four_bit: Path, tmp_path: Path, wrong: Wrong
) -> None:
    line = refusal(changed(four_bit, tmp_path / "wrong", wrong.edit, wrong.config))
    assert all(part in line for part in wrong.says), line


@pytest.mark.parametrize("wrong", EIGHT_BIT.values(), ids=EIGHT_BIT)
def test_an_8_bit_checkpoint_that_lacks_what_dequantizes_it_is_refused(
    eight_bit: Path, tmp_path: Path, wrong: Wrong
) -> None:
    line = refusal(changed(eight_bit, tmp_path / "wrong", wrong.edit, wrong.config))
    assert all(part in line for part in wrong.says), line


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}self_attn.rotary_emb.inv_freq",
        f"{LAYER}self_attn.masked_bias",
        f"{LAYER}self_attn.k_scale",
        "mtp.layers.0.mlp.up_proj.weight",
        "visual.blocks.0.attn.qkv.weight",
        "v_head.summary.weight",
    ],
)
def test_weights_beside_the_layers_and_leftovers_are_served_without(plain: Path, tmp_path: Path, name: str) -> None:
    model = weights_of(changed(plain, tmp_path / "more", put(name, 4)), "none")
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.parameters(), weights_of(plain, "none").parameters(), strict=True)
    )


def test_what_is_not_used_is_one_line_and_no_table(
    plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def edit(weights: dict[str, Tensor]) -> None:
        weights |= {f"visual.blocks.{number}.weight": torch.ones(4) for number in range(3)}

    weights_of(changed(plain, tmp_path / "more", edit), "none")
    (line,) = [line for line in caplog.messages if "not used" in line]
    assert line == "3 weights of the checkpoint are not used, such as model.safetensors: visual.blocks.0.weight"
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_layers_that_predict_several_tokens_at_once_are_no_layers_too_many(tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == "DeepSeek-V3")
    assert family.config_class == DeepseekV3Config.__name__
    tiny_model(family).save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    extra = put("model.layers.3.input_layernorm.weight", 64)
    predicting = changed(tmp_path / "plain", tmp_path / "more", extra, {"num_nextn_predict_layers": 1})
    assert weights_of(predicting, "none")
    assert "does not count" in refusal(
        changed(tmp_path / "plain", tmp_path / "wrong", extra, {"num_nextn_predict_layers": 0}), "none"
    )


def four_bit_head(plain: Path, folder: Path) -> LoadedModel:
    quantized_elsewhere(plain, folder, load_in_4bit=True, llm_int8_skip_modules=["no_such_layer"])
    return load(Config(model=str(folder), compute_dtype="float32"))


def test_a_head_in_4_bit_writes_as_many_ids_as_the_embeddings_read(plain: Path, tmp_path: Path) -> None:
    loaded = four_bit_head(plain, tmp_path / "head")
    assert loaded.model.lm_head.weight.shape[0] > 320
    assert loaded.facts.vocab_size == loaded.model.get_input_embeddings().weight.shape[0] == 320
