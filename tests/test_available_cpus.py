"""Gateway and worker count the same CPUs: each reads the control groups for itself, for they share the protos alone."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.workers.pool.machine import cpu_count
from worker.memory.available import available_cpus


class Layout(NamedTuple):
    """What a process with an affinity to 4 CPUs finds below /sys/fs/cgroup, and in /proc/self/cgroup."""

    files: dict[str, str]
    membership: str
    expected: int


def version_1(quota: int, *, group: str = "own") -> dict[str, str]:
    return {f"cpu/{group}/cpu.cfs_quota_us": f"{quota}\n", f"cpu/{group}/cpu.cfs_period_us": "100000\n"}


def version_2(own: str, above: str) -> dict[str, str]:
    return {"above/own/cpu.max": own, "above/cpu.max": above}


NESTED = "1:name=systemd:/x\n0::/above/own\n"
SHARED = "4:memory:/own\n3:cpu,cpuacct:/own\n"
LAYOUTS = {
    "no quota": Layout(version_2("max 100000", "max 100000"), NESTED, 4),
    "a quota": Layout(version_2("200000 100000", "max 100000"), NESTED, 2),
    "a part of a CPU too many": Layout(version_2("290000 100000\n", "max 100000\n"), NESTED, 2),
    "a tighter group above": Layout(version_2("300000 100000", "150000 100000"), NESTED, 1),
    "half a CPU": Layout(version_2("50000 100000", "max 100000"), NESTED, 1),
    "more than the affinity": Layout(version_2("9900000 100000", "9900000 100000"), NESTED, 4),
    "the mount's top alone, as in a container": Layout({"cpu.max": "200000 100000\n"}, "0::/docker/0123\n", 2),
    "another group's quota": Layout({"other/cpu.max": "100000 100000\n"}, "0::/mine\n", 4),
    "version 1: no quota": Layout(version_1(-1), SHARED, 4),
    "version 1: a quota": Layout(version_1(200000), SHARED, 2),
    "version 1: half a CPU": Layout(version_1(50000), SHARED, 1),
    "version 1: more than the affinity": Layout(version_1(9900000), SHARED, 4),
    "version 1: a tighter group above": Layout(
        version_1(300000, group="above/own") | version_1(100000, group="above"), "3:cpu:/above/own\n", 1
    ),
    "version 1: a controller with a like name": Layout(version_1(100000), "3:cpuset:/own\n", 4),
    "a path with a colon": Layout({"a:b/cpu.max": "100000 100000\n"}, "0::/a:b\n", 1),
    "no groups": Layout({}, "", 4),
    "groups without files": Layout({}, NESTED, 4),
}
Count = Callable[[Path, Path], int]


def by_gateway(root: Path, membership: Path) -> int:
    return cpu_count(root=root, membership=membership)


def by_worker(root: Path, membership: Path) -> int:
    return available_cpus(root, membership=membership)


@pytest.mark.parametrize("count", [by_gateway, by_worker])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_affinity_and_every_quota_limit_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout, count: Count
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    for name, content in layout.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "membership").write_text(layout.membership)
    assert count(tmp_path, tmp_path / "membership") == layout.expected


@pytest.mark.parametrize("count", [by_gateway, by_worker])
def test_without_control_groups_the_affinity_decides(tmp_path: Path, count: Count) -> None:
    assert count(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))
