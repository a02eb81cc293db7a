"""A gateway as a child process, for programs that want one of their own."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

READY = "textserve-gateway ready on "


class GatewayProcess:
    """Starts `python -m gateway` on a free port; entering waits for its ready line, leaving stops it.

    Raises RuntimeError if the gateway ends before it is ready; its own words are on standard error.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        self.address = ""
        self.exit_code: int | None = None
        self._flags = flags
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id. RuntimeError before the gateway was started."""
        return self._started().pid

    async def stop(self) -> int:
        """Asks the gateway to shut down, waits for it, and returns its exit code."""
        process = self._started()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        return await self.wait()

    async def wait(self) -> int:
        """Waits for the gateway to end by itself, and returns its exit code."""
        self.exit_code = await self._started().wait()
        return self.exit_code

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the gateway was never started")
        return self._process

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "gateway", "--listen", "127.0.0.1:0", *self._flags]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = (await self._process.stdout.readline()).decode()
        if not line.startswith(READY):
            raise RuntimeError(f"the gateway ended with code {await self._process.wait()} before it was ready")
        self.address = line.removeprefix(READY).split()[0]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
