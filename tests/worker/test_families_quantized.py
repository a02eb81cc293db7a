"""Every family of docs/models.md in every quantization: what transformers' own load of it generates, or a refusal.

All of them take minutes, and are for `make test-long`. Those that were once served wrong, or not at all, always run.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.worker.families import FAMILIES, Family, tiny_model
from tests.worker.families_table import quantized_share
from tests.worker.parity import Recorder, engine_for, generate_each_alone, mixed_sequences, run_with_random_arrivals
from tests.worker.tiny_models import VOCAB_SIZE, tiny_tokenizer
from worker.domain.config import QUANTIZATIONS, Config, Quantization
from worker.domain.refusal import UnsupportedModelError
from worker.domain.sequence import Sequence
from worker.loading.loading import LoadedModel, load
from worker.loading.probe import layer_layouts
from worker.quantize import quantize

pytestmark = pytest.mark.timeout(600)  # seconds each, but where others compute, too, many

ALWAYS: dict[str, tuple[Quantization, ...]] = {
    "Llama": QUANTIZATIONS,
    "GPT-2": ("nf4",),  # Conv1D
    "Mixtral": ("int8",),  # fused experts
    "Mamba": ("nf4", "int8"),
    "MiniCPM3": ("int8",),
    "DeepSeek-V2": ("int8",),
    "DeepSeek-V3": ("int8",),
    "Kimi-Linear": ("int8",),
    "Falcon (rotary)": ("nf4",),
    "RWKV": ("nf4",),
}
NEAR_TIE: dict[str, float] = {"nf4": 1e-3, "fp4": 1e-3, "int8": 0.02, "none": 1e-4}
"""How close two tokens' logits are that may be taken for each other, as a share of the range of all. LLM.int8 rounds
activations: what differs in the last bit before differs by a whole step behind."""


def cases(families: tuple[Family, ...]) -> list[Any]:
    return [
        pytest.param(
            family,
            quantization,
            id=f"{family.name}-{quantization}",
            marks=[] if quantization in ALWAYS.get(family.name, ()) else [pytest.mark.long],
        )
        for family in families
        for quantization in QUANTIZATIONS
    ]


def saved(family: Family, folder: Path) -> Path:
    tiny_model(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def loaded_by_us(folder: Path, quantization: Quantization) -> LoadedModel:
    # Without outliers: LLM.int8 picks them over the whole batch, and no row is computed as it is alone.
    return load(Config(model=str(folder), quantization=quantization, int8_threshold=0.0, compute_dtype="float32"))


def loaded_by_transformers(folder: Path, ours: LoadedModel) -> Any:
    config = getattr(ours.model.config, "quantization_config", None)
    settings = {"quantization_config": config} if config else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **settings).eval()


def same_weights(ours: Any, theirs: Any) -> list[str]:
    """Returns the names of weights and scales that differ."""
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    return [name for (name, one), (_, other) in pairs if not torch.equal(one, other)]


def disagreements(sequences: list[Sequence], theirs: Any, tie: float) -> list[str]:
    """Returns a line for each sequence with a token that `generate()` has no reason to take instead of its own."""
    alone = generate_each_alone(theirs, sequences)
    lines = []
    for sequence in sequences:
        expected = alone[sequence.sequence_id]
        steps = zip(sequence.output, expected.tokens, expected.logits, strict=False)
        step = next(((token, logits) for token, other, logits in steps if token != other), None)
        differs = len(sequence.output) != len(expected.tokens) if step is None else _distance(*step) > tie
        if differs:
            lines.append(f"{sequence.output} instead of {expected.tokens}")
    return lines


def _distance(token: int, logits: Tensor) -> float:
    return float((logits.max() - logits[token]) / (logits.max() - logits.min()))


@pytest.mark.parametrize(("family", "quantization"), cases(FAMILIES))
def test_a_family_is_served_as_transformers_quantizes_it_or_refused(
    family: Family, quantization: Quantization, tmp_path: Path
) -> None:
    folder = saved(family, tmp_path)
    ours = loaded_by_us(folder, quantization)
    if not family.is_served:
        with pytest.raises(UnsupportedModelError):
            layer_layouts(ours.model)
        return
    theirs = loaded_by_transformers(folder, ours)
    assert same_weights(ours.model, theirs) == []
    sequences = mixed_sequences(4, 2, vocab_size=VOCAB_SIZE)[1:]
    run_with_random_arrivals(engine_for(ours.model, Recorder()), sequences, 2)
    assert disagreements(sequences, theirs, NEAR_TIE[quantization]) == []
    share = quantized_share(tiny_model(family)) if quantization != "none" else 0.0
    assert ours.facts.quantization == (quantization if share else "none")


def test_no_more_than_near_ties_are_let_pass(tmp_path: Path) -> None:
    folder = saved(FAMILIES[0], tmp_path)
    sequences = mixed_sequences(4, 2, vocab_size=VOCAB_SIZE)[1:]
    ours = loaded_by_us(folder, "int8")
    run_with_random_arrivals(engine_for(ours.model, Recorder()), sequences, 2)
    other = loaded_by_us(folder, "nf4")
    assert disagreements(sequences, other.model, NEAR_TIE["int8"]) != []


def test_of_falcon_nothing_is_quantized_and_a_line_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    family = next(family for family in FAMILIES if family.name == "Falcon (rotary)")
    assert loaded_by_us(saved(family, tmp_path), "nf4").facts.quantized_share == 0
    assert "only 0 % of the parameters are quantized, because its linear layers are FalconLinear" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"), [("Falcon (rotary)", "nothing of it can be quantized"), ("RWKV", "could not be served: Rwkv")]
)
def test_quantize_writes_nothing_that_would_not_be_served_in_4_bit(tmp_path: Path, name: str, reason: str) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=reason):
        quantize(Config(model=str(saved(family, tmp_path / "in"))), out)
    assert not out.exists() or list(out.iterdir()) == []
