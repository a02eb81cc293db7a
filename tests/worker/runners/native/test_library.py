"""The C code is compiled once, and a worker that cannot compile it serves all the same."""

import logging
import os
import select
import shutil
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.domain.config import Config
from worker.loading.cpu_level import CpuLevel, cpu_level, runnable_levels
from worker.runners.native import assembly as native
from worker.runners.native import library as library_module
from worker.runners.native.library import Library, NativeError, load

LEVEL = cpu_level("generic")


@pytest.fixture(scope="session")
def level() -> CpuLevel:
    """One level for all of these tests."""
    return LEVEL


@pytest.fixture
def compiled(library: Library) -> Path:
    """The folder with what was compiled."""
    return library.path.parent


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str]) -> None:
        raise AssertionError("the compiler ran")

    monkeypatch.setattr(library_module, "_run", fail)


def fake_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a shell script in the place of the compiler."""
    for name in ("cc", "gcc", "clang"):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.usefixtures("no_compiler")
def test_what_was_compiled_is_used_again(compiled: Path) -> None:
    assert load(2, LEVEL, compiled).threads == 2


@pytest.mark.usefixtures("no_compiler")
def test_changed_sources_are_compiled_anew(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in library_module._SOURCES.glob("*.[ch]"):
        (tmp_path / source.name).write_text(source.read_text() + "\n")
    monkeypatch.setattr(library_module, "_SOURCES", tmp_path)
    with pytest.raises(AssertionError, match="the compiler ran"):
        load(1, LEVEL, library.path.parent)


def test_another_compiler_compiles_anew(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, "echo it ran >&2; exit 1", monkeypatch)
    with pytest.raises(NativeError, match="it ran"):
        load(1, LEVEL, compiled)


@pytest.mark.usefixtures("no_compiler")
def test_the_default_folder_is_the_users_cache(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "textserve").symlink_to(compiled)
    assert load(1, LEVEL).path.parent == tmp_path / "textserve"


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("given", ["", "relative"])
def test_a_cache_that_is_no_absolute_path_is_ignored(
    given: str, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "textserve").symlink_to(compiled)
    assert load(1, LEVEL).path.parent == tmp_path / ".cache" / "textserve"


def test_without_a_compiler_the_error_names_what_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeError, match="no C compiler"):
        load(1, LEVEL, tmp_path)


def test_what_a_compiler_says_in_another_encoding_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, "printf 'd\\351faut' >&2; exit 1", monkeypatch)
    with pytest.raises(NativeError, match="gcc failed: d\ufffdfaut"):
        load(1, LEVEL, tmp_path / "kept")


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    fake_compiler(tmp_path, "echo unknown instruction >&2; exit 1", monkeypatch)
    with pytest.raises(NativeError, match="cc failed: unknown instruction"):
        load(1, LEVEL, kept)
    assert list(kept.iterdir()) == []


def test_a_compiler_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "_COMPILE_S", 0.05)
    monkeypatch.setattr(library_module, "_compiler", lambda: sys.executable)
    monkeypatch.setattr(library_module, "_FLAGS", ("-c", "import threading; threading.Event().wait()"))
    with pytest.raises(NativeError, match="timed out"):
        load(1, LEVEL, tmp_path)


def test_what_a_compiler_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_writes, lives = tmp_path / "nobody_writes", tmp_path / "lives"
    os.mkfifo(nobody_writes)
    os.mkfifo(lives)
    monkeypatch.setattr(library_module, "_COMPILE_S", 1.0)
    fake_compiler(tmp_path, f"{shutil.which('cat')} {nobody_writes} >{lives}; exit 1", monkeypatch)
    life = os.open(lives, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(NativeError, match="timed out"):
            load(1, LEVEL, tmp_path / "kept")
        assert select.select([life], [], [], 10.0)[0], "what was started holds its output open"
    finally:
        os.close(os.open(nobody_writes, os.O_RDWR))
        os.close(life)


@pytest.mark.usefixtures("library")
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NativeError, match=f"{tmp_path}/file"):
        load(1, LEVEL, tmp_path / "file" / "textserve")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(NativeError, match="XDG_CACHE_HOME"):
        load(1, LEVEL)


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["nothing", "half"])
def test_a_file_that_was_cut_off_is_replaced(share: float, library: Library, tmp_path: Path) -> None:
    whole, kept = library.path.read_bytes(), tmp_path / library.path.name
    kept.write_bytes(whole[: int(len(whole) * share)])
    load(1, LEVEL, tmp_path)
    assert kept.stat().st_size == len(whole)


def test_a_new_file_that_cannot_be_loaded_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_nonsense(command: list[str]) -> None:
        Path(command[command.index("-o") + 1]).write_bytes(b"this is no library")

    monkeypatch.setattr(library_module, "_run", write_nonsense)
    with pytest.raises(NativeError, match=str(tmp_path)):
        load(1, LEVEL, tmp_path)


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_folder_that_others_can_write_is_refused(mode: int, library: Library, tmp_path: Path) -> None:
    shutil.copy(library.path, tmp_path)
    tmp_path.chmod(mode)
    with pytest.raises(NativeError, match=f"others than this user can write {tmp_path},"):
        load(1, LEVEL, tmp_path)


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_file_that_others_can_write_is_refused(mode: int, library: Library, tmp_path: Path) -> None:
    copy = Path(shutil.copy(library.path, tmp_path))
    copy.chmod(mode)
    with pytest.raises(NativeError, match=f"others than this user can write {copy},"):
        load(1, LEVEL, tmp_path)


@pytest.mark.parametrize("suffix", ["", ".so"], ids=["folder", "file"])
def test_what_another_user_owns_is_refused(suffix: str, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_stat = Path.stat

    def stat_of_another(path: Path, **settings: bool) -> os.stat_result:
        status = own_stat(path, **settings)
        return os.stat_result((*status[:4], os.getuid() + 1, *status[5:])) if path.suffix == suffix else status

    monkeypatch.setattr(Path, "stat", stat_of_another)
    with pytest.raises(NativeError, match=f"others than this user can write {compiled}.*{suffix},"):
        load(1, LEVEL, compiled)


@pytest.mark.usefixtures("library")
def test_the_file_is_the_users_own_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        load(1, LEVEL, tmp_path / "kept")
        load(1, LEVEL, tmp_path / "kept")
    finally:
        os.umask(before)


def test_a_cpu_that_linux_does_not_describe_has_no_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert [level.name for level in runnable_levels()] == ["generic"]
    with pytest.raises(NativeError, match="features cannot be read"):
        load(1, LEVEL, tmp_path)


@pytest.mark.usefixtures("library")
def test_workers_that_compile_at_once_all_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)
    run = library_module._run

    def run_together(command: list[str]) -> None:
        together.wait(timeout=300)
        run(command)

    monkeypatch.setattr(library_module, "_run", run_together)
    with ThreadPoolExecutor(2) as pool:
        paths = [loaded.path for loaded in pool.map(lambda _: load(1, LEVEL, tmp_path), range(2))]
    assert list(tmp_path.iterdir()) == [paths[0]] == [paths[1]]


def test_a_worker_without_a_compiler_warns_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.native_code(Config()) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no C compiler" in caplog.text
