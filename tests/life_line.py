"""What a process of the tests starts ends with it, however it ends: a program of its own sees to that.

    python -m tests.life_line NAME

Reads standard input to its end, which comes when the process that holds the other end of the pipe has ended, and kills
every process that has NAME in its environment: whatever was started there, and whatever that started.
"""

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

VARIABLE = "TEXTSERVE_TESTS"
"""Of the environment: names the process of the tests that started a process, itself or through others."""
ROOT = Path(__file__).parents[1]


def hold() -> Callable[[], None]:
    """Ties all that this process starts from now on to its life; returns what ends it at once.

    A process that is started with an environment of its own must be given `VARIABLE`.
    """
    name = str(uuid.uuid4())
    watching = {key: value for key, value in os.environ.items() if key != VARIABLE}
    os.environ[VARIABLE] = name
    watch = subprocess.Popen(
        [sys.executable, "-m", "tests.life_line", name],
        cwd=ROOT,
        env=watching,
        stdin=subprocess.PIPE,
        start_new_session=True,  # what is sent to the tests' whole process group does not reach it
    )

    def release() -> None:
        watch.communicate()

    return release


def kill_all(name: str) -> None:
    """Kills all processes of this name, and those that they start meanwhile."""
    while found := [process for process in psutil.process_iter() if _name(process) == name]:
        for process in found:
            _kill(process)
        psutil.wait_procs(found, timeout=1)  # one of which nobody takes leave has ended, too, and is not found again


def _name(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(VARIABLE)
    except psutil.Error:  # it has ended, or is somebody else's
        return None


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


if __name__ == "__main__":
    sys.stdin.read()
    kill_all(sys.argv[1])
