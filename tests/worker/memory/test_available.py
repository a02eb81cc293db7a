"""Free memory, as the machine and the control groups above this process leave it."""

from pathlib import Path

import psutil
import pytest

from worker.memory.available import available_bytes

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 64 GiB free."""
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=64 * GIB))


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


def available(root: Path, membership: str) -> int:
    (root / "membership").write_text(membership)
    return available_bytes(root, membership=root / "membership")


def test_without_control_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "nowhere", membership=tmp_path / "none") == 64 * GIB


def test_a_limit_of_version_2_leaves_what_is_not_used(tmp_path: Path) -> None:
    write(tmp_path, max=8 * GIB, current=3 * GIB)
    assert available(tmp_path, "0::/\n") == 5 * GIB


def test_a_limit_of_version_1_leaves_what_is_not_used(tmp_path: Path) -> None:
    write(tmp_path / "memory", limit_in_bytes=8 * GIB, usage_in_bytes=3 * GIB)
    assert available(tmp_path, "5:cpu,cpuacct:/\n4:memory:/\n0::/\n") == 5 * GIB


def test_files_that_were_not_read_lately_count_as_free(tmp_path: Path) -> None:
    statistics = f"anon 5\ninactive_file {GIB}\ntotal_inactive_file {2 * GIB}"
    write(tmp_path, max=8 * GIB, current=3 * GIB, stat=statistics)
    assert available(tmp_path, "0::/\n") == 6 * GIB
    write(tmp_path / "memory", limit_in_bytes=8 * GIB, usage_in_bytes=3 * GIB, stat=statistics)
    assert available(tmp_path, "4:memory:/\n") == 7 * GIB


@pytest.mark.parametrize(("outer", "inner", "left"), [(10, 4, 3), (2, 4, 1), (10, "max", 9)])
def test_the_tightest_group_above_counts(tmp_path: Path, outer: int, inner: int | str, left: int) -> None:
    write(tmp_path / "a", max=outer * GIB, current=GIB)
    write(tmp_path / "a" / "b", max=inner if inner == "max" else int(inner) * GIB, current=GIB)
    assert available(tmp_path, "0::/a/b\n") == left * GIB


def test_in_a_container_that_is_named_as_the_host_knows_it_the_mounts_top_counts(tmp_path: Path) -> None:
    write(tmp_path, max=8 * GIB, current=3 * GIB)
    assert available(tmp_path, "0::/docker/0123456789abcdef\n") == 5 * GIB


def test_another_groups_limit_does_not_count(tmp_path: Path) -> None:
    write(tmp_path / "other", max=GIB, current=0)
    assert available(tmp_path, "0::/mine\n") == 64 * GIB


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096, 100 * GIB])
def test_no_limit_or_one_above_the_machine_is_what_the_machine_has(tmp_path: Path, limit: object) -> None:
    write(tmp_path, max=limit, current=3 * GIB)
    assert available(tmp_path, "0::/\n") == 64 * GIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, max=GIB, current=2 * GIB)
    assert available(tmp_path, "0::/\n") == 0


def test_this_machines_own_groups_can_be_read() -> None:
    assert 0 < available_bytes() <= 64 * GIB
