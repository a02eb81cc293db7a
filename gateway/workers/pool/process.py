"""One life of a worker process: started, ready, ended.

The worker runs in its own session, so the terminal's interrupt does not reach it. Its stdin is its life line: a pipe on
which nothing is ever written and whose end of file, at the latest when this process ends, ends the worker. On stdout it
says that it is ready, or why it never will be. Its stderr is ours.

`subprocess` starts it and not the event loop: uvloop would fork, with the threads and locks of gRPC in the air, and
would let the worker inherit descriptors.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

_READY_PREFIX = "textserve-worker ready "
_REFUSED_PREFIX = "textserve-worker refused "
_READ_SIZE = 64 * 1024  # bytes; also the most that is kept of an unfinished line

logger = logging.getLogger(__name__)


class WorkerProcess:
    """A running worker; `close` it in the end, also when it has ended by itself."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts `command` with `environment` set over our own variables; `name` is for the log.

        Raises OSError if it can't be started.
        """
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[str | None] = self._loop.create_future()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._unfinished = b""
        self.refusal = ""
        """Why the worker will never be ready, in its own words; empty if it has not said so."""
        self._process = _start(command, environment)
        os.set_blocking(self._stdout, False)
        self._loop.add_reader(self._stdout, self._read)
        threading.Thread(target=self._reap, name=f"reaper of {name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Number of the process, and of its session and process group."""
        return self._process.pid

    async def wait_ready(self, timeout_s: float) -> str | None:
        """Returns what the worker says of itself ("key=value ...") when it is ready, or None if it ends before.

        Raises TimeoutError if it does neither within `timeout_s` seconds.
        """
        return await asyncio.wait_for(asyncio.shield(self._ready), timeout_s)

    async def wait(self) -> int:
        """Returns the exit code when the process has ended, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._exited)

    def terminate(self) -> None:
        """Asks the worker to finish what runs and to end. Its children are its own business."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends the worker and its children at once, also children that outlived it."""
        # The group keeps its number while a member lives; an empty one's is too fresh to have been given out again.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Ends what still runs, and returns when nothing is left: no process, no child of it, no pipe."""
        self.kill()
        await self.wait()
        self._loop.remove_reader(self._stdout)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def _stdout(self) -> int:
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        return self._process.stdout.fileno()

    def _read(self) -> None:
        try:
            data = os.read(self._stdout, _READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stdout)
        *lines, unfinished = (self._unfinished + data).split(b"\n")
        self._unfinished = unfinished[:_READ_SIZE]
        for line in lines:
            self._hear(line.decode(errors="replace").rstrip())

    def _hear(self, line: str) -> None:
        if line.startswith(_READY_PREFIX):
            self._resolve_ready(line.removeprefix(_READY_PREFIX))
        elif line.startswith(_REFUSED_PREFIX):
            self.refusal = line.removeprefix(_REFUSED_PREFIX)
        else:
            logger.warning("%s wrote to its stdout, which is for its ready line alone: %s", self._name, line)

    def _resolve_ready(self, facts: str | None) -> None:
        if not self._ready.done():
            self._ready.set_result(facts)

    def _reap(self) -> None:
        """Waits for the process in a thread: what a loop offers for it differs between loops and systems."""
        returncode = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._note_exit, returncode)

    def _note_exit(self, returncode: int) -> None:
        self._read()  # it may have been ready: which of the two the loop sees first is chance
        self._resolve_ready(None)
        self._exited.set_result(returncode)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def describe_exit(returncode: int) -> str:
    """Says in words how a process ended, such as "exited with code 1" or "was killed by SIGKILL"."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name}"
