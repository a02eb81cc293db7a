"""Keeps one worker running: starts it, reports it, and starts it again with a backoff when it dies."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .backoff import Backoff, BackoffPolicy
from .machine import Placement
from .process import WorkerProcess, describe_exit
from .worker_pool import PoolFailed, PoolListener, WorkerAddress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SupervisorPolicy:
    """The numbers of supervision."""

    backoff: BackoffPolicy
    """Delays between a death and the next start."""

    start_timeout_s: float
    """A worker that is not ready after so many seconds is killed."""

    chance: Callable[[], float]
    """Draws the random number, from 0 to 1, that places each delay."""


@dataclass
class Readiness:
    """How many workers of a pool are ready; shared by their supervisors."""

    count: int = 0
    ever: bool = False
    """Whether one was."""

    def up(self) -> None:
        """One more is ready."""
        self.count += 1
        self.ever = True

    def down(self) -> None:
        """One that was ready has ended."""
        self.count -= 1


@dataclass(frozen=True)
class _Death:
    reason: str
    returncode: int | None = None
    uptime_s: float = 0.0
    """How long it was ready; 0 if it never was."""
    refusal: str = ""
    """Why it will never be ready, in the worker's own words."""


class Supervisor:
    """Runs one worker until it is told to stop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        placement: Placement,
        *,
        arguments: Sequence[str],
        sockets: Path,
        listener: PoolListener,
        policy: SupervisorPolicy,
        readiness: Readiness,
    ) -> None:
        """Takes the worker's `command` without its address, what stands behind it, and the `readiness` of its pool."""
        self._name = name
        self._command = (*command, *placement.flags, *arguments)
        self._placement = placement
        self._sockets = sockets
        self._listener = listener
        self._policy = policy
        self._readiness = readiness
        self._start_count = 0
        self._process: WorkerProcess | None = None
        self._address: WorkerAddress | None = None
        """Where the process listens that is ready."""
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Returns when the worker has been stopped, by `terminate` or `kill`, and has ended.

        Raises PoolFailed if the worker refuses its configuration before any worker of the pool was ever ready.
        """
        backoff = Backoff(self._policy.backoff)
        while not self._stopping.is_set():
            death = await self._live()
            if self._stopping.is_set():
                logger.info("%s %s", self._name, death.reason)
                return
            self._give_up_if_permanent(death)
            # What fails to start is not missed: it would take the machine from whatever else runs there.
            is_missed = death.uptime_s > 0 and not self._readiness.count
            delay_s = backoff.next_delay(uptime_s=death.uptime_s, chance=self._policy.chance(), is_missed=is_missed)
            logger.warning("%s %s; it is started again in %.1f s", self._name, death.reason, delay_s)
            await self._pause(delay_s)

    def terminate(self) -> None:
        """Asks the worker to finish, and starts it no more."""
        if self._stopping.is_set():
            return  # for a worker a second SIGTERM means to finish nothing
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Ends the worker, and starts it no more."""
        self._stopping.set()
        if self._process is not None:
            logger.warning("%s did not finish in time and is killed", self._name)
            self._process.kill()

    def replace(self, address: WorkerAddress, why: str) -> bool:
        """Kills the process if it is the one at `address`; `run` starts the next. Returns whether it was."""
        if self._process is None or self._address != address:
            return False
        logger.warning("%s does not work and is killed: %s", self._name, why)
        self._process.kill()
        return True

    async def _live(self) -> _Death:
        """Runs the worker once, from its start to its end."""
        address = self._next_address()
        command = (*self._command, "--listen", address.target, "--exit-with-stdin")
        try:
            process = WorkerProcess(self._name, command, self._placement.environment)
        except OSError as error:
            return _Death(f"could not be started: {error}")
        self._process = process
        logger.info("%s is starting as process %d (%s)", self._name, process.pid, self._placement)
        try:
            return await self._watch(process, address)
        finally:
            self._process = None
            await process.close()
            _remove_socket(address)

    def _next_address(self) -> WorkerAddress:
        """Returns an address of its own for each start: a channel to the dead process never meets the new one."""
        self._start_count += 1
        return WorkerAddress(self._name, f"unix:{self._sockets}/{self._name}-{self._start_count}.sock")

    async def _watch(self, process: WorkerProcess, address: WorkerAddress) -> _Death:
        try:
            ready = await process.wait_ready(self._policy.start_timeout_s)
        except TimeoutError:
            return _Death(f"was not ready within {self._policy.start_timeout_s:g} s and is killed")
        if ready is None:
            returncode = await process.wait()
            why = f" ({process.refusal})" if process.refusal else ""
            return _Death(f"{describe_exit(returncode)} before it was ready{why}", returncode, refusal=process.refusal)
        logger.info("%s is ready: %s", self._name, ready)
        return await self._serve(process, address)

    async def _serve(self, process: WorkerProcess, address: WorkerAddress) -> _Death:
        now = asyncio.get_running_loop().time
        ready_at = now()
        self._readiness.up()
        self._address = address
        self._listener.worker_up(address)
        try:
            returncode = await process.wait()
        finally:
            self._address = None
            self._readiness.down()
            self._listener.worker_down(self._name)
        return _Death(describe_exit(returncode), returncode, now() - ready_at)

    def _give_up_if_permanent(self, death: _Death) -> None:
        if death.returncode == os.EX_CONFIG and not self._readiness.ever:
            why = death.refusal or "its configuration or its model, as standard error tells"
            raise PoolFailed(f"{self._name} refuses to serve (exit code {os.EX_CONFIG}): {why}")

    async def _pause(self, delay_s: float) -> None:
        """Waits for `delay_s` seconds, or until the worker is to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()


def _remove_socket(address: WorkerAddress) -> None:
    Path(address.target.removeprefix("unix:")).unlink(missing_ok=True)
