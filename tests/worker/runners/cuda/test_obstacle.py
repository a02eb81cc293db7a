"""Models whose decode steps wait for the device are not captured, and a warning says why."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.tiny_models import tiny_llama
from worker import assembly
from worker.domain.config import Config
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.runners.cuda.assembly import cuda_runner, lack, obstacle
from worker.runners.model_runner import ModelRunner

CUDA = torch.device("cuda", 0)
AMPERE, TURING = (8, 0), (7, 5)


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is not here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: AMPERE)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")


def with_rope(kind: str) -> Any:
    model = tiny_llama()
    model.model.rotary_emb.rope_type = kind
    return model


def with_ropes_by_layer() -> Any:
    model = tiny_llama()
    model.model.rotary_emb.rope_type = {"sliding_attention": "default", "full_attention": "longrope"}
    return model


def with_int8(threshold: float) -> Any:
    model: Any = tiny_llama()
    plain = model.model.layers[0].mlp.down_proj
    model.model.layers[0].mlp.down_proj = bnb.nn.Linear8bitLt(
        plain.in_features, plain.out_features, bias=False, has_fp16_weights=False, threshold=threshold
    )
    return model


def offloaded() -> Any:
    model = tiny_llama()
    head = model.lm_head
    head.weight = nn.Parameter(head.weight.to("meta"), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: with_rope("dynamic"), "its rotary frequencies depend on the longest row"),
        (lambda: with_rope("longrope"), "its rotary frequencies depend on the longest row"),
        (with_ropes_by_layer, "its rotary frequencies depend on the longest row"),
        (lambda: with_int8(6.0), "LLM.int8 looks for outliers"),
        (offloaded, "the model is not on one GPU alone"),
    ],
    ids=["dynamic", "longrope", "longrope in some layers", "outliers", "offloaded"],
)
def test_a_model_that_cannot_be_captured_is_not_and_the_log_says_why(
    build: Callable[[], Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert cuda_runner(build(), CUDA) is None
    assert f"decode steps are not captured: {reason}" in caplog.text


@pytest.mark.parametrize(
    "build", [tiny_llama, lambda: with_rope("yarn"), lambda: with_int8(0.0)], ids=["llama", "yarn", "no outliers"]
)
def test_nothing_is_in_the_way_of_others(build: Callable[[], Any]) -> None:
    assert obstacle(build()) == ""


def test_no_graphs_are_captured_where_the_config_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(assembly, "cuda_runner", lambda model, device, **_: asked.append(device))
    model = tiny_llama()
    loaded: Any = SimpleNamespace(model=model, input_device=torch.device("cpu"), code=None)
    for config in (Config(), Config(cuda_graphs=False)):
        assert isinstance(assembly._runner(loaded, config), ModelRunner)
        assert len(asked) == 1


def test_cards_before_ampere_are_left_to_transformers() -> None:
    assert "7.5" in lack(TURING)
    assert all(lack(capability) == "" for capability in (AMPERE, (8, 6), (9, 0), (12, 0)))


@pytest.mark.parametrize(
    ("patched", "value", "reason"),
    [
        ("find_spec", lambda name: None, "Triton is not installed"),
        ("shutil.which", lambda name: None, "Triton needs a C compiler"),
        ("sysconfig.get_path", lambda name: "/nowhere", "no Python.h"),
    ],
    ids=["Triton", "compiler", "headers"],
)
def test_what_triton_needs_is_named(patched: str, value: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(f"worker.runners.cuda.assembly.{patched}", value)
    assert reason in lack(AMPERE)


def test_after_two_lives_that_ended_in_their_trial_steps_are_not_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fault = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    for _ in range(2):
        runner = cuda_runner(tiny_llama(), CUDA)
        assert runner is not None
        with pytest.raises(torch.AcceleratorError), runner.trial():
            raise fault
    assert cuda_runner(tiny_llama(), CUDA) is None
    assert "2 workers have ended while theirs were tried" in caplog.text
