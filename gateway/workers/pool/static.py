"""A pool of workers that somebody else runs, at addresses that the operator gives."""

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from .worker_pool import PoolFailed, PoolListener, WorkerAddress


class StaticPool:
    """Names the workers at `targets` ("host:port"), each by its target. It starts nothing and watches nothing."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = tuple(dict.fromkeys(targets))
        self.size = len(self._targets)

    async def start(self, listener: PoolListener) -> None:
        """Reports all workers as up: whether they answer is for the listener to find out."""
        for target in self._targets:
            listener.worker_up(WorkerAddress(name=target, target=target))

    def replace(self, address: WorkerAddress, why: str) -> bool:  # noqa: ARG002 - the pool's interface
        """Leaves the worker to those who run it."""
        return False

    async def stop(self, grace_s: float) -> None:
        """Leaves the workers to those who run them."""

    async def wait_failed(self) -> NoReturn:
        """Waits for ever: a worker that does not answer now may do so later."""
        never: asyncio.Future[PoolFailed] = asyncio.get_running_loop().create_future()
        raise await never
