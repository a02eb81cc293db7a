"""What the three commands have in common."""

import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import client

ROOT = Path(__file__).parent.parent
COMMANDS = {"client": "textserve", "gateway": "textserve-gateway", "worker": "textserve-worker"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as an image ships them that has bytecode only: no source text, and no docstrings either."""
    folder = tmp_path_factory.mktemp("compiled")
    for package in (*COMMANDS, "protos/textserve"):
        shutil.copytree(ROOT / package, folder / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(folder, quiet=1, legacy=True, optimize=2)
    for source in folder.rglob("*.py"):
        source.unlink()
    return folder


@pytest.mark.parametrize("package", COMMANDS)
def test_a_command_needs_no_source_text(package: str, compiled: Path) -> None:
    def run(flag: str) -> str:
        return subprocess.run(
            [sys.executable, "-OO", "-m", package, flag],
            cwd=compiled,
            env={**os.environ, "PYTHONPATH": str(compiled)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert run("--version") == f"{COMMANDS[package]} {client.__version__}\n"
    assert run("--help").startswith(f"usage: {COMMANDS[package]} ")
