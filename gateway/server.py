"""The gateway: its public server, its connections to the workers, and how they start and stop."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from textserve.v1 import generation_pb2_grpc, model_pb2_grpc, tokenization_pb2_grpc

from .api.health import HEALTH, SERVICES, Health
from .api.idempotency import Deduplication
from .api.interceptors import CallInterceptor
from .api.server_options import server_options
from .api.services import Calls, GenerationServicer, ModelServicer
from .api.tokenization import TokenizationServicer
from .config import Config
from .dispatch.dispatcher import Dispatcher
from .dispatch.in_flight import InFlight
from .domain.served_model import Models
from .request.executor import Executors
from .request.preprocess import SEED_LIMIT, Preprocessor
from .scheduling.admission_control import AdmissionControl, ThroughputEstimator
from .scheduling.outliers import OutlierDetector
from .scheduling.scheduler import Scheduler
from .workers.connection import WorkerConnection
from .workers.pool.worker_pool import PoolFailed, WorkerAddress, WorkerPool

logger = logging.getLogger(__name__)

# Time for the last statuses to be sent, whatever the grace: calls that write to a stuck caller end with it.
CLOSING_GRACE_S = 0.5


class StartupError(Exception):
    """The gateway can't run; the text says why, for the operator."""


class Gateway:
    """One gateway: its public server, and its connections to the workers of a pool.

    Args:
        config: Its configuration.
        pool: Where its workers come from.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, config: Config, pool: WorkerPool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.models = Models(is_awaited=lambda: self.dispatcher.has_unfinished)
        self.health = Health()
        self.ready = asyncio.Event()
        """Set once as many workers take work as are meant to run; of a static pool, one."""
        self.address = ""
        """Where it listens, after `start`."""
        scheduler = Scheduler(config.tenants)
        admission = AdmissionControl(
            scheduler, limits=config.queue_limits, estimator=ThroughputEstimator(), max_wait_s=config.max_wait
        )
        self._outliers = OutlierDetector()
        self.dispatcher = Dispatcher(
            scheduler,
            worker_wait_s=config.worker_wait,
            clock=clock,
            on_workers_changed=self._workers_changed,
            admission=admission,
            outliers=self._outliers,
        )
        self._executors = Executors(config.tenants, clock)
        calls = Calls(tenants=config.tenants, request_timeout_s=config.request_timeout, clock=clock)
        self.tokenization = TokenizationServicer(self.models, self._executors, calls)
        self.generation = GenerationServicer(
            Preprocessor(
                self.models,
                self._executors,
                new_seed=lambda: random.randrange(SEED_LIMIT),  # noqa: S311 - no secret
            ),
            self._executors,
            self.dispatcher,
            admission,
            Deduplication(clock, self._executors),
            calls=calls,
            request_timeout_s=config.request_timeout,
            clock=clock,
        )
        self._pool = pool
        self._clock = clock
        self._awaited = 1 if config.worker else pool.size
        self._connections: dict[str, WorkerConnection[InFlight]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._build_server()

    async def start(self) -> None:
        """Listens, and starts the pool. Calls are refused with NO_WORKER until a worker is ready.

        Raises StartupError if the address is taken, or the pool can't be started.
        """
        self.address = self._bind()
        await self._server.start()
        try:
            await self._pool.start(self)
        except PoolFailed as error:
            raise StartupError(str(error)) from error

    async def stop(self, grace_s: float) -> None:
        """Shuts down: what runs has `grace_s` seconds to finish. It may be called again with less, also meanwhile.

        The pool is stopped whatever goes wrong before: no worker may be left behind.
        """
        try:
            self.health.shut_down()
            self.dispatcher.drain()
            await self._wait_idle(grace_s)
            self.dispatcher.close()
            await self._server.stop(CLOSING_GRACE_S)
            await self._close_connections()
        finally:
            await self._pool.stop(grace_s)
            self._executors.close()
            await self._cancel_tasks()

    def worker_up(self, address: WorkerAddress) -> None:
        """The pool has a worker: connects to it."""
        connection = WorkerConnection(
            address,
            models=self.models,
            dispatch=self.dispatcher,
            clock=self._clock,
            outliers=self._outliers,
            replace=self._pool.replace,
        )
        self._connections[address.name] = connection
        connection.open()

    def worker_down(self, name: str) -> None:
        """The process of a worker has ended."""
        self._spawn(self._connections.pop(name).close())

    def _bind(self) -> str:
        try:
            port = self._server.add_insecure_port(self.config.listen)
        except RuntimeError as error:
            raise StartupError(f"can't listen on {self.config.listen}: it is taken, or no address here") from error
        if self.config.listen.startswith("unix:"):
            return self.config.listen
        return f"{self.config.listen.rpartition(':')[0]}:{port}"

    def _build_server(self) -> aio.Server:
        config = self.config
        server = aio.server(
            interceptors=(
                CallInterceptor(
                    self.dispatcher,
                    max_message_bytes=config.max_message_bytes,
                    allow_unknown_fields=config.allow_unknown_fields,
                    clock=self._clock,
                ),
            ),
            options=server_options(config.max_message_bytes, config.max_connection_calls),
        )
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self.generation, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(self.models, self.dispatcher), server)
        tokenization_pb2_grpc.add_TokenizationServiceServicer_to_server(self.tokenization, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if config.reflection:
            reflection.enable_server_reflection((*SERVICES, HEALTH, reflection.SERVICE_NAME), server)
        return server

    def _workers_changed(self, worker_count: int) -> None:
        self.health.tell(ready=worker_count > 0)
        if worker_count >= self._awaited:
            self.ready.set()

    async def _wait_idle(self, grace_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.dispatcher.wait_idle()

    async def _close_connections(self) -> None:
        closing = (each.close() for each in self._connections.values())
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(error, Exception):
                logger.error("a connection could not be closed", exc_info=error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task has failed", exc_info=error)

    async def _cancel_tasks(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
