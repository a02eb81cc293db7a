"""What this process may still take of its machine: memory and CPUs, as its control groups leave them.

In a container psutil and torch tell of the whole machine. The kernel's limits stand in files, for control groups of
version 2 (`memory.max`, `memory.current`, `cpu.max`) and of version 1 (`memory.limit_in_bytes`,
`memory.usage_in_bytes`, `cpu.cfs_quota_us`, `cpu.cfs_period_us`); a group is bound by those above it, too. Of its
memory, file pages that were not read lately count as free, as they do for kubelet: the kernel drops them before it
refuses anything. See https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT, _MEMBERSHIP = "/sys/fs/cgroup", "/proc/self/cgroup"


@dataclass(frozen=True)
class _Version:
    """Names of the files of one version of control groups."""

    limit: str
    usage: str
    droppable: str


_V1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version("memory.max", "memory.current", "inactive_file")


def available_bytes(root: str | Path = _ROOT, *, membership: str | Path = _MEMBERSHIP) -> int:
    """Returns the least of the machine's available memory and what each control group of this process leaves, in bytes.

    Args:
        root: where control groups are mounted.
        membership: the file that names this process's groups, of the form of /proc/self/cgroup.
    """
    left = (_left(folder, version) for folder, version in _groups("memory", Path(root), Path(membership)))
    return min([psutil.virtual_memory().available, *(bytes_left for bytes_left in left if bytes_left is not None)])


def available_cpus(root: str | Path = _ROOT, *, membership: str | Path = _MEMBERSHIP) -> int:
    """Returns how many CPUs this process may keep busy, at least 1, in whole ones.

    It is the least of its affinity and of the quotas of its control groups. Arguments as of `available_bytes`.
    """
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = (_quota(folder, version) for folder, version in _groups("cpu", Path(root), Path(membership)))
    return max(1, min([affinity, *(quota for quota in quotas if quota is not None)]))


def _groups(controller: str, root: Path, membership: Path) -> Iterator[tuple[Path, _Version]]:
    """Yields the folders of this process's groups that a controller rules, and of all above them.

    In a container the named path may be the host's, and only the mount's top is there: folders that do not exist have
    no files, and so no limit.
    """
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        mount, version = (root, _V2) if not controllers else (root / controller, _V1)
        if version is _V2 or controller in controllers.split(","):
            group = mount / path.lstrip("/")
            yield from ((folder, version) for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _quota(folder: Path, version: _Version) -> int | None:
    """Returns how many whole CPUs a group may keep busy; None if it sets no limit."""
    if version is _V1:
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota // period if quota is not None and period else None
    limit = folder / "cpu.max"
    quota_text, period_text = limit.read_text().split() if limit.is_file() else ("max", "")
    return None if quota_text == "max" else int(quota_text) // int(period_text)


def _left(folder: Path, version: _Version) -> int | None:
    """Returns what a group leaves, in bytes; None if it sets no limit."""
    limit, usage = _number(folder / version.limit), _number(folder / version.usage)
    if limit is None or usage is None:
        return None
    return max(0, limit - max(0, usage - _droppable(folder / "memory.stat", version.droppable)))


def _number(path: Path) -> int | None:
    """Returns the number in a file; None for "max" or -1, and if there is no such file."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def _droppable(statistics: Path, name: str) -> int:
    lines = statistics.read_text().splitlines() if statistics.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == name)
