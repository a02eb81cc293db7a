"""The gateway as a process: startup, serve, shutdown."""

import asyncio
import gc
import logging
import signal
import sys

from .config import Config
from .server import Gateway, StartupError
from .workers.pool.embedded import EmbeddedPool
from .workers.pool.static import StaticPool
from .workers.pool.worker_pool import PoolFailed, WorkerPool

logger = logging.getLogger(__name__)


async def serve(config: Config) -> int:
    """Runs a gateway until a signal ends it.

    Returns the exit status: 0 after a graceful shutdown, 128 and the signal's number if a second signal cut it short.
    Raises StartupError if it can't listen, or no worker can ever start.
    """
    signals = _Signals()
    pool = build_pool(config)
    gateway = Gateway(config, pool)
    try:
        await gateway.start()
        await _serve(gateway, pool, signals)
    except Exception:
        await gateway.stop(0)
        raise
    return await _shut_down(gateway, signals)


def build_pool(config: Config) -> WorkerPool:
    """The workers that the configuration asks for."""
    if config.worker:
        return StaticPool(config.worker)
    return EmbeddedPool(
        worker_command(config),
        config.workers,
        gpus_per_worker=config.gpus_per_worker,
        arguments=config.worker_args,
    )


def worker_command(config: Config) -> list[str]:
    """How a worker is started, without the flags that the operator gives it; the pool adds where it is to listen."""
    # The workers' package under the name of this one's: textserve.worker, or worker in a checkout.
    package = __name__.removesuffix("gateway.process") + "worker"
    command = [sys.executable, "-m", package, "--log-level", config.log_level]
    if config.model:
        command += ["--model", config.model]
    if config.quantization:
        command += ["--quantization", config.quantization]
    return command


class _Signals:
    """SIGTERM and SIGINT: the first asks to stop, the second to stop at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.number = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._note, number)

    def _note(self, number: int) -> None:
        (self.second if self.first.is_set() else self.first).set()
        self.number = number


async def _serve(gateway: Gateway, pool: WorkerPool, signals: _Signals) -> None:
    """Returns at the first signal. Raises StartupError if no worker can ever start."""
    announcing = asyncio.create_task(_announce(gateway, pool.size))
    failing = asyncio.create_task(pool.wait_failed())
    stopping = asyncio.create_task(signals.first.wait())
    announcing.add_done_callback(_log_failure)
    try:
        await asyncio.wait((failing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            await failing
    except PoolFailed as error:
        raise StartupError(str(error)) from error
    finally:
        for task in (announcing, failing, stopping):
            task.cancel()


async def _announce(gateway: Gateway, worker_count: int) -> None:
    await gateway.ready.wait()
    # What there is now stays: a full collection that looks at all of it takes tens of milliseconds.
    gc.collect()
    gc.freeze()
    model = gateway.models.current
    name = model.facts.name if model else ""
    line = f"textserve-gateway ready on {gateway.address} model={name} workers={worker_count}"
    print(line, flush=True)  # noqa: T201 - whoever started this process waits for it


def _log_failure(announcing: asyncio.Task[None]) -> None:
    # Nobody can be told on standard output, which may be closed; the service itself is well.
    if not announcing.cancelled() and (error := announcing.exception()) is not None:
        logger.error("could not say that the gateway is ready", exc_info=error)


async def _shut_down(gateway: Gateway, signals: _Signals) -> int:
    logger.info(
        "shutting down: %d requests have %g s to finish",
        gateway.dispatcher.running_count,
        gateway.config.grace,
    )
    finishing = asyncio.create_task(gateway.stop(gateway.config.grace))
    forcing = asyncio.create_task(signals.second.wait())
    await asyncio.wait((finishing, forcing), return_when=asyncio.FIRST_COMPLETED)
    forcing.cancel()
    if finishing.done():
        await finishing
        return 0
    await gateway.stop(0)
    await finishing
    return 128 + signals.number
