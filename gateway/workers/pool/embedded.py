"""A pool of worker processes on this machine, supervised by this process and ended with it."""

import asyncio
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from .backoff import BackoffPolicy
from .machine import Placement, cpu_count, deal, visible_gpus
from .supervisor import Readiness, Supervisor, SupervisorPolicy
from .worker_pool import PoolFailed, PoolListener, WorkerAddress

_LONGEST_FOLDER = 103 - len("/worker-123-123456.sock")  # bytes: macOS takes 103 for the path of a socket, Linux 107


class EmbeddedPool:
    """Runs `count` workers, each on a Unix socket in a private folder."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        gpus_per_worker: int = 0,
        arguments: Sequence[str] = (),
        placements: Sequence[Placement] | None = None,
        backoff: BackoffPolicy = BackoffPolicy(),  # noqa: B008 - a frozen value
        start_timeout_s: float = 600.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Takes what the workers need; nothing is started yet.

        Args:
            command: program and flags of a worker; the pool adds `--listen`, `--exit-with-stdin` and `--threads`.
            count: number of workers; 0: as `deal` has it.
            gpus_per_worker: GPUs that each worker gets; 0: all are dealt out evenly.
            arguments: further flags, which win over `command` and over the pool's `--threads`.
            placements: one for each worker; unset: the GPUs or CPUs that this process may use are dealt out.
            backoff: delays before a worker that died is started again.
            start_timeout_s: seconds that a worker may take until it is ready; large models load slowly.
            chance: draws the random number, from 0 to 1, that places each delay of the backoff.
        """
        self._command = tuple(command)
        self._arguments = tuple(arguments)
        self._placements = placements or deal(
            count, visible_gpus(os.environ), cpu_count(), gpus_per_worker=gpus_per_worker
        )
        self.size = len(self._placements)
        self._policy = SupervisorPolicy(backoff, start_timeout_s, chance)
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self._supervisors: list[Supervisor] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = asyncio.Event()
        self._failures: list[BaseException] = []

    async def start(self, listener: PoolListener) -> None:
        """Starts all workers at once and returns before they are up; called once.

        Raises PoolFailed if there is no place for their sockets.
        """
        self._sockets = _private_folder()
        self._supervisors = self._supervise(Path(self._sockets.name), listener)
        self._tasks = [asyncio.create_task(supervisor.run()) for supervisor in self._supervisors]
        for task in self._tasks:
            task.add_done_callback(self._note_failure)

    def replace(self, address: WorkerAddress, why: str) -> bool:
        """Kills the process that listens at `address`, if it is still there; the backoff holds for the next one."""
        return any(supervisor.replace(address, why) for supervisor in self._supervisors)

    async def stop(self, grace_s: float) -> None:
        """Sends SIGTERM to all workers, waits `grace_s` seconds at most, sends SIGKILL to the rest and cleans up.

        It may be called at any time and again: every call waits for its own grace, and the shortest one holds.
        """
        for supervisor in self._supervisors:
            supervisor.terminate()
        await self._ended(timeout_s=grace_s)
        for supervisor in self._supervisors:
            supervisor.kill()
        await self._ended(timeout_s=None)
        if self._sockets is not None:
            self._sockets.cleanup()

    async def wait_failed(self) -> NoReturn:
        """Raises PoolFailed once a worker has refused its configuration before any was ever ready.

        A bug that ends the supervision of a worker, such as a listener that raises, comes out here too.
        """
        await self._failed.wait()
        raise self._failures[0]

    def _supervise(self, sockets: Path, listener: PoolListener) -> list[Supervisor]:
        readiness = Readiness()
        return [
            Supervisor(
                f"worker-{number}",
                self._command,
                placement,
                arguments=self._arguments,
                sockets=sockets,
                listener=listener,
                policy=self._policy,
                readiness=readiness,
            )
            for number, placement in enumerate(self._placements)
        ]

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failures.append(error)
            self._failed.set()

    async def _ended(self, *, timeout_s: float | None) -> None:
        running = [task for task in self._tasks if not task.done()]
        if running:
            await asyncio.wait(running, timeout=timeout_s)


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """Returns a new folder that only this user may enter."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="textserve-")
    except OSError as error:
        raise PoolFailed(f"there is no place for the workers' sockets: {error}") from error
    if len(os.fsencode(folder.name)) > _LONGEST_FOLDER:
        folder.cleanup()
        raise PoolFailed(f"{folder.name} is too long for the path of a Unix socket: set TMPDIR to a shorter folder")
    return folder
