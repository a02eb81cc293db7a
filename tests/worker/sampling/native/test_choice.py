"""A worker on a CPU samples in C; one that cannot compile it says so, and samples all the same."""

import logging
from pathlib import Path

import pytest
import torch

from worker.assembly import _sampler
from worker.loading.cpu_level import cpu_level
from worker.sampling.native.native_sampler import NativeSampler
from worker.sampling.sampler import sample


def test_a_worker_on_a_cpu_samples_in_c(
    sampling_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "textserve").symlink_to(sampling_library.parent)
    assert isinstance(_sampler(torch.device("cpu"), cpu_level()), NativeSampler)


def test_without_a_compiler_torch_samples_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _sampler(torch.device("cpu"), cpu_level()) is sample
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no C compiler" in caplog.text


def test_an_accelerator_samples_by_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _sampler(torch.device("cuda"), cpu_level()) is sample
