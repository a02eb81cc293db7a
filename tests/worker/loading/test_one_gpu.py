"""A model that fits one GPU goes there whole: pretended GPUs, and the sizes of real models."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.integrations.accelerate import _get_device_map

from tests.worker.tiny_models import tiny_llama
from worker.domain.config import Config
from worker.loading.one_gpu import demand, gpu_for_all
from worker.loading.quantization.quantization import skeleton
from worker.loading.weights import _placement
from worker.memory.buckets import row_buckets

GIB = 1 << 30
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
    max_position_embeddings=8192,
)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that pretends GPUs with so many GiB each, all of it free."""

    def pretend(*sizes: float) -> None:
        total = [int(size * GIB) for size in sizes]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(total))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: len(total))
        monkeypatch.setattr("worker.loading.one_gpu.free_bytes", lambda device: total[device.index])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(total_memory=total[gpu]))

    return pretend


@pytest.mark.parametrize(
    ("sizes", "config", "gpu"),
    [
        ((24, 24), Config(), 0),
        ((12, 24), Config(), 1),
        ((24,), Config(), 0),
        ((16, 16), Config(quantization="none"), None),
        ((7, 7), Config(), None),  # 4,096 tokens of context would not fit beside it
        ((8, 8), Config(), 0),
        ((7,), Config(), 0),
        ((4,), Config(), None),
    ],
)
def test_an_8b_model_goes_where_it_fits(sizes: tuple[float, ...], config: Config, gpu: int | None, gpus: Any) -> None:
    gpus(*sizes)
    assert gpu_for_all(config, LLAMA_8B, torch.bfloat16) == gpu


def test_transformers_would_spread_what_fits_one_gpu(gpus: Any) -> None:
    """The reason for all this; should it learn better, this tells."""
    gpus(24, 24)
    model: Any = skeleton(LLAMA_8B).to(torch.bfloat16)
    memory = {0: 24 * GIB, 1: 24 * GIB}
    split = _get_device_map(model, "auto", memory, hf_quantizer=None)
    assert set(split.values()) == {0, 1}
    # What is served is on one device, whatever is asked of a map of ours.
    whole = _placement(Config(), LLAMA_8B, model, torch.bfloat16)["device_map"]
    assert set(_get_device_map(model, whole, None, hf_quantizer=None).values()) == {0}


def test_a_map_or_a_limit_of_ones_own_stays(gpus: Any) -> None:
    gpus(24, 24)
    model: Any = tiny_llama()
    for config, expected in (
        (Config(), {"": 0}),
        (Config(device_map="balanced"), "balanced"),
        (Config(max_memory="0=1GiB,1=1GiB"), "auto"),
        (Config(device_map="cuda:1"), "cuda:1"),
    ):
        assert _placement(config, model.config, model, torch.bfloat16)["device_map"] == expected


def test_without_a_gpu_nothing_is_worked_out() -> None:
    assert gpu_for_all(Config(), None, torch.bfloat16) is None


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 16, 17, 24, 32, 48, 64, 100, 128])
def test_as_many_graphs_are_planned_as_are_captured(rows: int) -> None:
    assert demand(Config(max_rows=rows), is_loaded=False).graphs == len(row_buckets(rows))
    assert demand(Config(max_rows=rows, cuda_graphs=False), is_loaded=False).graphs == 0
