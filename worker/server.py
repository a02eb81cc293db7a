"""The worker process: load, warm up, listen, serve, drain."""

import asyncio
import gc
import logging
import os
import signal
import uuid
from dataclasses import dataclass

import grpc

from textserve.internal.v1 import worker_pb2, worker_pb2_grpc

from .assembly import assemble
from .domain.config import Config
from .domain.refusal import doing
from .engine.engine import Engine
from .loading.loading import LoadedModel, load
from .loading.weights import check_gpus
from .memory.device_errors import free_cached_memory, is_out_of_memory
from .runners.native.assembly import native_code
from .service import messages
from .service.address import check_free
from .service.service import WorkerService
from .warm_up import warm_up

logger = logging.getLogger(__name__)

# One half of a pair with the gateway's channel options: pings every second, and no complaint about them. Without the
# ping timeout a stopped peer is noticed after a minute only; without the zero, quiet calls stop pinging.
SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.max_receive_message_length", 64 << 20),
]


_SHARES = (1.0, 0.8, 0.6, 0.4)
"""Of the memory that is planned for keys and values: what is tried, one after the other, while memory runs out."""
STOP_S = 5.0
"""How long the engine's last step is waited for when all else has ended."""


class ListenError(Exception):
    """The address cannot be listened on; the message says which."""


class EngineDiedError(Exception):
    """The engine failed for good, or hangs, as when a device is lost; a new process may do better."""


@dataclass(frozen=True)
class Prepared:
    """A model that is loaded and warm, and how gateways are told of it."""

    loaded: LoadedModel
    engine: Engine
    description: worker_pb2.DescribeResponse


def prepare(config: Config) -> Prepared:
    """Loads the model, warms it up and describes it. Takes as long as that takes.

    Raises whatever the libraries that read it do; `refusal` makes a sentence of that.
    """
    check_gpus(config, os.environ.get("CUDA_VISIBLE_DEVICES"))
    code = native_code(config)
    loaded = load(config, code)
    engine = _warm_engine(loaded, config)
    with doing("describing the model"):
        limits = engine.scheduler.limits
        description = messages.description(loaded.facts, limits, loaded.tokenizer, uuid.uuid4().hex)
    return Prepared(loaded, engine, description)


def _warm_engine(loaded: LoadedModel, config: Config) -> Engine:
    """Returns an engine that has run; with less memory for keys and values where all else found not enough."""
    for share in _SHARES[:-1]:
        if engine := _tried(loaded, config, share):
            return engine
        # Only here, because the traceback held what there was; graphs and what they were made of hold each other.
        gc.collect()
        free_cached_memory()
    return _warmed(loaded, config, _SHARES[-1])


def _tried(loaded: LoadedModel, config: Config, share: float) -> Engine | None:
    try:
        return _warmed(loaded, config, share)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("out of memory with %.0f %% of what was to hold keys and values: %s", 100 * share, error)
        return None


def _warmed(loaded: LoadedModel, config: Config, share: float) -> Engine:
    with doing("putting the engine together"):
        engine = assemble(loaded, config, share=share)
    with doing("warming up"), engine.runner.trial():
        warm_up(engine, loaded.facts.vocab_size)
    return engine


async def serve(config: Config, prepared: Prepared) -> None:
    """Serves until SIGTERM, then drains; a second SIGTERM, or the end of the drain time, ends what still runs.

    Raises ListenError if the address is taken or not allowed, EngineDiedError if the engine cannot go on, or does not
    end.
    """
    loaded, engine, description = prepared.loaded, prepared.engine, prepared.description
    service = WorkerService(description, loaded.tokenizer, engine)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    address = listen(server, config.listen)
    signals = _signals()
    service.start()
    await server.start()
    beats = asyncio.create_task(service.beat())
    # The one line that whoever started the process waits for.
    ready = f"address={address} model={loaded.facts.name} incarnation={description.incarnation_id}"
    print(f"textserve-worker ready {ready}", flush=True)
    await _signal_or_death(service, signals)
    if not service.engine_died.is_set():
        await _drain(service, signals, config.drain_s)
    beats.cancel()
    await server.stop(grace=1.0)
    if not service.stop(STOP_S):
        raise EngineDiedError("the engine does not come back from its last step")
    if service.engine_died.is_set():
        raise EngineDiedError("the engine failed, and could not be reset")


def check_address(address: str) -> None:
    """Raises ListenError if the address is in use, or can't be listened on, as far as that shows before it is tried."""
    try:
        check_free(address)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error


def listen(server: grpc.aio.Server, address: str) -> str:
    """Binds the address and returns it with the port that it got. A Unix socket is for its owner alone.

    Raises ListenError if it is in use, or can't be listened on.
    """
    check_address(address)  # gRPC would take a socket's path from whoever listens there
    umask = os.umask(0o177)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address}: {error}") from error
    finally:
        os.umask(umask)
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _signals() -> asyncio.Queue[int]:
    received: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.put_nowait, number)
    return received


async def _signal_or_death(service: WorkerService, signals: asyncio.Queue[int]) -> None:
    waits = {asyncio.ensure_future(signals.get()), asyncio.ensure_future(service.engine_died.wait())}
    _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for waiting in pending:
        waiting.cancel()


async def _drain(service: WorkerService, signals: asyncio.Queue[int], limit_s: float) -> None:
    logger.info("draining")
    drained = asyncio.ensure_future(service.drain())
    others = {asyncio.ensure_future(signals.get()), asyncio.ensure_future(service.engine_died.wait())}
    done, pending = await asyncio.wait({drained, *others}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    for waiting in pending:
        waiting.cancel()
    if drained not in done:
        logger.warning("ended before everything that ran had finished")
