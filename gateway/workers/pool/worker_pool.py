"""The interface between the gateway and whatever starts its workers.

`embedded` supervises processes on this machine, `static` names workers that somebody else runs.
"""

from dataclasses import dataclass
from typing import NoReturn, Protocol


@dataclass(frozen=True)
class WorkerAddress:
    """Where one worker listens."""

    name: str
    """Names the worker's place in the pool, such as "worker-0": it outlives restarts of the process."""

    target: str
    """gRPC target, such as "unix:/tmp/textserve-x/worker-0-1.sock" or "host:port"."""


class PoolFailed(Exception):  # noqa: N818 - the name says what happened, as in `wait_failed`
    """The pool can never have a worker; the message is a sentence for the operator."""


class PoolListener(Protocol):
    """Learns which workers there are. It is called on the event loop, must not block and must not raise."""

    def worker_up(self, address: WorkerAddress) -> None:
        """A worker listens at `address` or, in a static pool, is meant to."""

    def worker_down(self, name: str) -> None:
        """The process of a worker has ended: called once for each `worker_up`. A static pool never calls it."""


class WorkerPool(Protocol):
    """Starts the workers, or knows where they are."""

    size: int
    """Number of workers that are meant to run, at least 1."""

    async def start(self, listener: PoolListener) -> None:
        """Starts the workers without waiting until they are up; called once.

        Raises PoolFailed if nothing can be started at all.
        """

    def replace(self, address: WorkerAddress, why: str) -> bool:
        """Ends a worker that lives and does not work, and starts it again; `why` is for the log.

        Whoever judged it asks for that, on the event loop. Returns whether it is done: then `worker_down` follows, and
        `worker_up` when there is another process. False for what this pool has not started, and if another process has
        taken its place already.
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """Asks all workers at once to finish, and ends those still running after `grace_s` seconds.

        Returns when all have ended and nothing is left of them. It may be called again, also meanwhile: the workers
        get the shortest of the graces.
        """

    async def wait_failed(self) -> NoReturn:
        """Waits for what the pool can't mend, after `start`.

        Raises PoolFailed when no worker can ever start.
        """
        ...
