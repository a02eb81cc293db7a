"""The C code is compiled once, and a worker that cannot compile it serves all the same."""

import logging
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.worker.native.models import CASES, bfloat16_model
from worker import native
from worker.native import library as library_module
from worker.native.library import Library, NativeError, load


@pytest.fixture
def compiled(library: Library) -> Path:
    """The folder with what was compiled."""
    return library.path.parent


def no_compiler(*_: object, **__: object) -> Any:
    raise AssertionError("the compiler ran")


def fake_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a shell script in the place of the compiler."""
    for name in ("cc", "gcc", "clang"):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))


def test_what_was_compiled_is_used_again(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", no_compiler)
    assert load(2, compiled).threads == 2


def test_changed_sources_are_compiled_anew(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in library_module._SOURCES.glob("*.[ch]"):
        (tmp_path / source.name).write_text(source.read_text() + "\n")
    monkeypatch.setattr(library_module, "_SOURCES", tmp_path)
    monkeypatch.setattr(subprocess, "run", no_compiler)
    with pytest.raises(AssertionError, match="the compiler ran"):
        load(1, library.path.parent)


def test_another_compiler_compiles_anew(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, "echo it ran >&2; exit 1", monkeypatch)
    with pytest.raises(NativeError, match="it ran"):
        load(1, compiled)


def test_the_default_folder_is_the_users_cache(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "textserve").symlink_to(compiled)
    monkeypatch.setattr(subprocess, "run", no_compiler)
    assert load(1).path.parent == tmp_path / "textserve"


def test_without_a_compiler_the_error_names_what_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeError, match="no C compiler"):
        load(1, tmp_path)


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    fake_compiler(tmp_path, "echo unknown instruction >&2; exit 1", monkeypatch)
    with pytest.raises(NativeError, match="cc failed: unknown instruction"):
        load(1, kept)
    assert list(kept.iterdir()) == []


def test_a_compiler_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "_COMPILE_S", 0.05)
    monkeypatch.setattr(library_module, "_compiler", lambda: sys.executable)
    monkeypatch.setattr(library_module, "_FLAGS", ("-c", "import threading; threading.Event().wait()"))
    with pytest.raises(NativeError, match="timed out"):
        load(1, tmp_path)


@pytest.mark.usefixtures("library")
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NativeError, match=f"{tmp_path}/file"):
        load(1, tmp_path / "file" / "textserve")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(NativeError, match="XDG_CACHE_HOME"):
        load(1)


def test_a_file_that_cannot_be_loaded_is_an_error(library: Library, tmp_path: Path) -> None:
    (tmp_path / library.path.name).write_bytes(b"this is no library")
    with pytest.raises(NativeError, match=library.path.name):
        load(1, tmp_path)


@pytest.mark.usefixtures("library")
def test_workers_that_compile_at_once_all_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)
    run = subprocess.run

    def run_together(*arguments: Any, **settings: Any) -> Any:
        together.wait(timeout=60)
        return run(*arguments, **settings)

    monkeypatch.setattr(subprocess, "run", run_together)
    with ThreadPoolExecutor(2) as pool:
        paths = [loaded.path for loaded in pool.map(lambda _: load(1, tmp_path), range(2))]
    assert list(tmp_path.iterdir()) == [paths[0]] == [paths[1]]


def test_a_worker_without_a_compiler_warns_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.native_runner(bfloat16_model(CASES[0])) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no C compiler" in caplog.text
