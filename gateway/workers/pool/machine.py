"""What this machine has, found without loading torch, and how it is dealt out among the workers."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

_NVIDIA_SMI_TIMEOUT_S = 20  # without a persistent driver each GPU is first initialized
_GPU_ID = re.compile(r"\d+|(GPU|MIG)-.+")
_LISTED_UUID = re.compile(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)")


def visible_gpus(
    environment: Mapping[str, str], *, driver: Path = Path("/proc/driver/nvidia"), devices: Path = Path("/dev")
) -> list[str]:
    """Returns the CUDA ids (numbers or UUIDs, MIG instances too) of the visible GPUs; empty if there are none.

    CUDA_VISIBLE_DEVICES decides if it is set; else `nvidia-smi`, which alone knows of MIG, if it is there and works;
    else what the driver lists in `driver`, unless the machine's GPUs are not passed on to this container.
    """
    allowed = environment.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return parse_visible_devices(allowed)
    listed = parse_nvidia_smi(_nvidia_smi(environment.get("PATH")))
    if listed or not (devices / "nvidiactl").exists():
        return listed
    return [str(index) for index, _ in enumerate((driver / "gpus").glob("*"))]


def parse_visible_devices(value: str) -> list[str]:
    """Returns the ids in a CUDA_VISIBLE_DEVICES: as CUDA does, up to the first one that is not valid."""
    return list(takewhile(_GPU_ID.fullmatch, (name.strip() for name in value.split(","))))


def parse_nvidia_smi(listing: str) -> list[str]:
    """Returns the UUIDs that `nvidia-smi -L` lists, with the MIG instances of a GPU in place of the GPU."""
    gpus: list[list[str]] = []
    for uuid in _LISTED_UUID.findall(listing):
        if uuid.startswith("GPU-"):
            gpus.append([uuid])
        else:
            gpus[-1].append(uuid)
    return [uuid for whole, *instances in gpus for uuid in instances or [whole]]


def _nvidia_smi(search_path: str | None) -> str:
    program = shutil.which("nvidia-smi", path=search_path)
    if program is None:
        return ""
    try:
        listing = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""  # a driver that does not work is as good as none
    return listing.stdout


def cpu_count(*, membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the number of CPUs that this process may use, at least 1.

    It is the smallest of the process's affinity and the quotas of its control groups, of version 1 or 2, in whole CPUs.
    """
    return max(1, min([_affinity(), *_quotas(membership, root)]))


def _affinity() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(membership: Path, root: Path) -> list[int]:
    lines = membership.read_text().splitlines() if membership.exists() else []
    quotas: list[int] = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "cpu" if controllers else root
        group = mount / path.lstrip("/")
        folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(mount)]
        limits = [_limit(folder) for folder in folders]
        quotas += [int(quota) // int(period) for quota, period in limits if quota not in {"max", "-1"}]
    return quotas


def _limit(folder: Path) -> tuple[str, str]:
    """Returns quota and period of a control group, in microseconds; "max" or "-1" is no quota."""
    if (newer := folder / "cpu.max").exists():
        quota, period = newer.read_text().split()
        return quota, period
    if (older := folder / "cpu.cfs_quota_us").exists():
        return older.read_text().strip(), (folder / "cpu.cfs_period_us").read_text().strip()
    return "max", ""


@dataclass(frozen=True)
class Placement:
    """What one worker gets of the machine."""

    environment: Mapping[str, str]
    """Variables to set for the worker, over those that it inherits."""

    flags: tuple[str, ...]
    """Flags to add to the worker's command."""

    def __str__(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.environment.items()), *self.flags])


def deal(worker_count: int, gpu_ids: Sequence[str], cpu_count: int, *, gpus_per_worker: int = 0) -> list[Placement]:
    """Returns the placement of each worker.

    GPUs are dealt evenly, or so many to each, neighbours together because they tend to be linked; workers in excess of
    them share them in turn, and are told so. Of MIG instances each worker gets one: CUDA shows a process no more.
    Without GPUs each worker gets an equal number of CPU threads, at least 1.

    Args:
        worker_count: how many workers; 0: one for each GPU, or for each `gpus_per_worker`, and one without GPUs.
        gpu_ids: what CUDA_VISIBLE_DEVICES calls the GPUs.
        cpu_count: CPUs that they may use together.
        gpus_per_worker: 0: evenly.
    """
    count = worker_count or max(1, len(gpu_ids) // (gpus_per_worker or 1))
    if not gpu_ids:
        threads = max(1, cpu_count // count)
        return [Placement({}, ("--threads", str(threads)))] * count
    shares = [tuple(_gpu_share(worker, count, gpu_ids, gpus_per_worker)) for worker in range(count)]
    sharing = Counter(shares)
    return [_on_gpus(share, sharing[share]) for share in shares]


def _gpu_share(worker: int, worker_count: int, gpu_ids: Sequence[str], each: int) -> Sequence[str]:
    gpu_count = len(gpu_ids)
    if each:
        begin = worker % max(1, gpu_count // each) * each
        share = gpu_ids[begin : begin + each]
    elif gpu_count < worker_count:
        share = [gpu_ids[worker % gpu_count]]
    else:
        share = gpu_ids[worker * gpu_count // worker_count : (worker + 1) * gpu_count // worker_count]
    return share[:1] if share[0].startswith("MIG-") else share


def _on_gpus(gpu_ids: Sequence[str], worker_count: int) -> Placement:
    flags = ("--workers-on-gpu", str(worker_count)) if worker_count > 1 else ()
    return Placement({"CUDA_VISIBLE_DEVICES": ",".join(gpu_ids)}, flags)
