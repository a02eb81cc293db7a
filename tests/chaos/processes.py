"""Processes that a run starts, stops and kills, each with its record in the run's folder."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from tests.chaos.events import Killed
from tests.chaos.recorder import Recorder, now

START_S = 120.0
END_S = 60.0


class Process:
    """One gateway, or one worker that no gateway started.

    Args:
        module: What to run, with `python -m`.
        flags: Its flags.
        folder: Where records and the log go.
        worker: Module of the workers that a gateway starts.
    """

    def __init__(self, module: str, flags: Sequence[str], folder: Path, *, worker: str = "") -> None:
        self._command = [sys.executable, "-m", module, *flags]
        self._environment = {
            **os.environ,
            "TEXTSERVE_CHAOS_RECORD": str(folder),
            "TEXTSERVE_CHAOS_WORKER": worker,
            "OMP_NUM_THREADS": "1",
        }
        self._log = folder / "log"
        self._process: asyncio.subprocess.Process | None = None
        self.ready_line = ""

    @property
    def is_started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns once it has said that it is ready; RuntimeError if it ends before, TimeoutError if it takes long."""
        with self._log.open("ab") as log:
            self._process = await self._spawn(log)
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_S)
        self.ready_line = line.decode().strip()
        if " ready" not in self.ready_line:
            raise RuntimeError(f"{self._command} ended before it was ready; see {self._log}")

    async def _spawn(self, log: BinaryIO) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
            env=self._environment,
        )  # fmt: skip

    async def stop(self) -> int:
        """Asks it to finish, and returns its exit code; it is killed if it takes too long."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            return await asyncio.wait_for(self._process.wait(), END_S)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def workers(self) -> list[psutil.Process]:
        """The workers that a gateway has started."""
        return [child for child in psutil.Process(self.pid).children() if child.status() != psutil.STATUS_ZOMBIE]

    def tell(self) -> None:
        """Makes a gateway record what it holds."""
        os.kill(self.pid, signal.SIGUSR2)


def kill(process: psutil.Process, record: Recorder) -> float:
    """Kills a process; returns when."""
    process.kill()
    killed_at = now()
    record(Killed(killed_at, process.pid))
    return killed_at
