"""What is made of the GPUs that are, or should be, there."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from worker.domain.config import Config
from worker.domain.refusal import Refusal
from worker.loading.weights import check_gpus, compute_dtype


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("dealt", ["0", "2,3", "GPU-1b2c", "MIG-1b2c"])
@pytest.mark.parametrize(
    ("built_for", "reason"), [(None, "is a build for CPUs"), ("13.0", "is built for CUDA 13.0: the driver is missing")]
)
def test_a_gpu_that_was_dealt_and_is_not_seen_is_a_refusal(
    dealt: str, built_for: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(Refusal, match=reason) as refused:
        check_gpus(Config(), dealt)
    assert f"GPU {dealt} was dealt to it" in str(refused.value)
    check_gpus(Config(device_map="cpu"), dealt)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("dealt", [None, "", "-1", "NoDevFiles"])
def test_where_none_was_dealt_the_cpu_serves(dealt: str | None) -> None:
    check_gpus(Config(), dealt)


def test_a_gpu_that_is_seen_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_gpus(Config(), "0")


@pytest.mark.parametrize(
    ("capabilities", "dtype"), [([8, 9], torch.bfloat16), ([7], torch.float16), ([9, 7], torch.float16)]
)
def test_gpus_compute_in_bfloat16_if_all_of_them_have_it_and_in_float16_else(
    capabilities: list[int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []

    def device(gpu: int) -> Any:
        chosen.append(gpu)
        return nullcontext()

    def is_supported(*, including_emulation: bool) -> bool:
        return including_emulation or capabilities[chosen[-1]] >= 8

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert compute_dtype(Config()) == dtype
    assert compute_dtype(Config(compute_dtype="float32")) == torch.float32
