"""What becomes of the workers when signals hit the process that runs their pool."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PARENT = "tests.gateway.pool_parent"
ROOT = Path(__file__).parents[4]
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture(params=["asyncio", "uvloop"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a program with a pool of two workers, in a process group of its own, and waits until both are up.

    Workers inherit its stderr: that reaches its end only when the program and all its workers have ended.
    """
    started: list[subprocess.Popen[str]] = []
    temporary = tmp_path.parent / "t"  # short enough for the path of a socket; a killed parent leaves its folder there
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary)}

    def start_parent(mode: str) -> subprocess.Popen[str]:
        (tmp_path / "mode").write_text(mode)
        command = [sys.executable, "-m", PARENT, request.param, str(tmp_path / "mode")]
        pipe = subprocess.PIPE
        parent = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        started.append(parent)
        assert [line(parent), line(parent)] == ["up", "up"]
        return parent

    yield start_parent
    for parent in started:
        parent.kill()
        parent.communicate()


def line(parent: subprocess.Popen[str]) -> str:
    assert parent.stdout is not None
    return parent.stdout.readline().rstrip()


@pytest.mark.parametrize("mode", ["ready", "stubborn"])
def test_no_worker_outlives_a_killed_parent(start: Start, mode: str) -> None:
    parent = start(mode)
    parent.kill()
    _, stderr = parent.communicate()
    assert stderr == ""


def test_the_terminals_interrupt_does_not_reach_the_workers(start: Start) -> None:
    parent = start("ready")
    os.killpg(parent.pid, signal.SIGINT)
    assert line(parent) == "interrupted"
    parent.terminate()
    stdout, stderr = parent.communicate()
    assert stdout.split() == ["down", "down"]
    assert stderr.split() == ["terminated", "terminated"]
    assert parent.returncode == 0
