"""Finding GPUs, on made-up machines; `tests/test_available_cpus.py` counts CPUs."""

from pathlib import Path

import pytest

from gateway.workers.pool.machine import parse_nvidia_smi, parse_visible_devices, visible_gpus

WITHOUT_MIG = """\
GPU 0: NVIDIA H200 (UUID: GPU-6c8d1a52-5b57-4b0c-9f2e-0f1e5a3f9a01)
GPU 1: NVIDIA H200 (UUID: GPU-0d3b7a2e-2f4c-47f0-8a61-9b7c1d2e3f02)
"""
WITH_MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736)
  MIG 3g.20gb     Device  1: (UUID: MIG-a28ad590)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77aa0b13)
"""


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("", []),
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
        ("GPU-8932f937,MIG-c7384736,1", ["GPU-8932f937", "MIG-c7384736", "1"]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(value: str, ids: list[str]) -> None:
    assert parse_visible_devices(value) == ids
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == ids


def test_mig_instances_stand_for_their_gpu() -> None:
    assert parse_nvidia_smi(WITH_MIG) == ["MIG-c7384736", "MIG-a28ad590", "GPU-77aa0b13"]
    assert len(parse_nvidia_smi(WITHOUT_MIG)) == 2
    assert parse_nvidia_smi("No devices found.\n") == []


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine whose driver knows two GPUs, in a container that may use none; it has an nvidia-smi."""
    for gpu in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "driver" / "gpus" / gpu).mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "bin").mkdir()
    return tmp_path


def find(machine: Path) -> list[str]:
    return visible_gpus({"PATH": str(machine / "bin")}, driver=machine / "driver", devices=machine / "dev")


def install_nvidia_smi(machine: Path, script: str) -> None:
    program = machine / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_gpus_that_are_not_passed_on_to_the_container_do_not_count(machine: Path) -> None:
    assert find(machine) == []


def test_the_drivers_gpus_are_numbered(machine: Path) -> None:
    (machine / "dev" / "nvidiactl").touch()
    assert find(machine) == ["0", "1"]


def test_nvidia_smi_is_believed_first(machine: Path) -> None:
    (machine / "dev" / "nvidiactl").touch()
    install_nvidia_smi(machine, "echo 'GPU 0: Tesla T4 (UUID: GPU-abc)'")
    assert find(machine) == ["GPU-abc"]


def test_an_nvidia_smi_that_fails_is_passed_over(machine: Path) -> None:
    (machine / "dev" / "nvidiactl").touch()
    install_nvidia_smi(machine, "echo 'GPU 0: Tesla T4 (UUID: GPU-abc)'; exit 9")
    assert find(machine) == ["0", "1"]
