"""What the tests of the pool see of it: its reports, its log, its processes, and what it leaves behind."""

import asyncio
import gc
import logging
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from gateway.workers.pool.worker_pool import WorkerAddress


class Recorder:
    """A listener that keeps what it is told, in order."""

    def __init__(self) -> None:
        self._reports: asyncio.Queue[WorkerAddress | str] = asyncio.Queue()

    def worker_up(self, address: WorkerAddress) -> None:
        self._reports.put_nowait(address)

    def worker_down(self, name: str) -> None:
        self._reports.put_nowait(name)

    async def up(self) -> WorkerAddress:
        """Waits for the next report, which must be a worker that is up."""
        report = await self._reports.get()
        assert isinstance(report, WorkerAddress)
        return report

    async def down(self) -> str:
        """Waits for the next report, which must be a worker that is down."""
        report = await self._reports.get()
        assert isinstance(report, str)
        return report

    @property
    def empty(self) -> bool:
        return self._reports.empty()


class Log(logging.Handler):
    """The pool's log, line after line."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put_nowait(record.getMessage())

    async def line(self, part: str) -> str:
        """Waits for a line that contains `part`, passing over others."""
        while part not in (line := await self._lines.get()):
            pass
        return line


def pid_of(address: WorkerAddress) -> int:
    """Returns the process that listens at `address`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.target.removeprefix("unix:"))
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


async def wait_ended(pid: int) -> None:
    """Waits until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    await ended.wait()
    loop.remove_reader(descriptor)
    os.close(descriptor)


@asynccontextmanager
async def nothing_left_over() -> AsyncIterator[None]:
    """Asserts that tasks, processes, descriptors and temporary files are afterwards what they were before."""
    gc.collect()  # what earlier tests have left in this process must not go meanwhile
    before = _holdings()
    yield
    after = _holdings()
    assert after == before, f"{before} became {after}"


def _holdings() -> tuple[int, int, int, int]:
    return (
        len(asyncio.all_tasks()),
        len(psutil.Process().children(recursive=True)),
        len(list(Path("/proc/self/fd").iterdir())),
        len(list(Path(tempfile.gettempdir()).iterdir())),
    )
