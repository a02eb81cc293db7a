"""What tests start ends with them, also where nobody can tidy up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.life_line import VARIABLE

ROOT = Path(__file__).parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/left_running.py"]


@contextmanager
def running(told: Path, *flags: str) -> Iterator[tuple[psutil.Process, list[psutil.Process]]]:
    """Runs a pytest that leaves a gateway; gives it, and the process of its test with the gateway and the worker."""
    os.mkfifo(told)
    environment = os.environ | {"TEXTSERVE_TESTS_TOLD": str(told)}
    with subprocess.Popen([*PYTEST, *flags], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as tests:
        yield psutil.Process(tests.pid), [psutil.Process(int(pid)) for pid in told.read_text().split()]


# With xdist the one that is killed has started the one that has started the gateway.
@pytest.mark.parametrize(
    "flags", [pytest.param((), id="alone", marks=pytest.mark.long), pytest.param(("-n", "1"), id="xdist")]
)
def test_a_gateway_and_its_worker_end_with_a_killed_test_run(flags: tuple[str, ...], tmp_path: Path) -> None:
    with running(tmp_path / "told", *flags) as (tests, (test, gateway, worker)):
        assert tests in [test, *test.parents()]
        assert [each.is_running() for each in (gateway, worker)] == [True, True]
        tests.kill()
        psutil.wait_procs([test, gateway, worker])  # as long as it takes


def test_a_program_that_is_left_ends_when_the_tests_do(tmp_path: Path) -> None:
    """One that nothing else would end: it reads nothing, and has a session of its own."""
    program = (
        "import subprocess, sys\n"
        "from tests import life_line\n"
        "release = life_line.hold()\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(3600)']\n"
        "left = subprocess.Popen([sys.executable, '-c', f'import subprocess; subprocess.Popen({sleeper})'],"
        " start_new_session=True)\n"
        "left.wait()\n"
        "release()\n"
    )
    # The sleeper holds the pipe's other end: the output ends when it does.
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert ended.stdout == b""


def test_every_process_of_the_tests_has_a_name_of_its_own() -> None:
    """Of which those that it starts can be told: the variable was set after this process had begun."""
    assert os.environ[VARIABLE] != psutil.Process().environ().get(VARIABLE)


def test_an_environment_of_its_own_is_given_to_no_process() -> None:
    """Without the variable it would not be found."""
    files = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert [
        path.name for path in files if "env={" in path.read_text() and "env={**os.environ" not in path.read_text()
    ] == []
