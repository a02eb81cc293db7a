"""Listening, draining and the end of `serve`, in this process."""

import asyncio
import logging
import math
import re
import signal
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tests.worker.fake_model import EXPLOSIVE, FakeModel, Gate, fake_engine
from tests.worker.serving import submission
from textserve.internal.v1 import worker_pb2_grpc
from worker import server as server_module
from worker.domain.config import Config
from worker.domain.plan import Plan
from worker.engine.engine import Engine
from worker.loading.checkpoint.generation_defaults import GenerationDefaults
from worker.loading.checkpoint.tokenizer_files import TokenizerFiles
from worker.loading.facts import ModelFacts
from worker.server import SERVER_OPTIONS, EngineDiedError, ListenError, Prepared, listen, serve
from worker.service import messages

# As in test_service.py.
pytestmark = pytest.mark.asyncio(loop_scope="module")

FACTS = ModelFacts("fake", "Fake", 64, 96, "none", 0.0, "00ff", GenerationDefaults(), (), ("cpu",))
LOADED: Any = SimpleNamespace(facts=FACTS, tokenizer=TokenizerFiles(b"{}", "", {}, clean_up_tokenization_spaces=False))
LIMIT_S = 300  # for what never comes


def prepared(engine: Engine) -> Prepared:
    """A worker that has loaded the fake model."""
    return Prepared(LOADED, engine, messages.description(FACTS, engine.scheduler.limits, LOADED.tokenizer, "a"))


async def test_a_unix_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    path = tmp_path / "worker.sock"
    assert listen(server, f"unix:{path}") == f"unix:{path}"
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await server.stop(grace=0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_the_port_that_was_got_is_returned_and_cannot_be_shared(host: str) -> None:
    first, second = grpc.aio.server(options=SERVER_OPTIONS), grpc.aio.server(options=SERVER_OPTIONS)
    address = listen(first, f"{host}:0")
    assert address.rpartition(":")[0] == host
    await first.start()
    with pytest.raises(ListenError, match=re.escape(address)):
        listen(second, address)
    await first.stop(grace=0)


@pytest.mark.parametrize("address", ["nowhere.invalid:0", "unix:/no/such/folder/worker.sock"])
async def test_an_address_that_cannot_be_listened_on_is_named(address: str) -> None:
    with pytest.raises(ListenError, match=address):
        listen(grpc.aio.server(options=SERVER_OPTIONS), address)


async def test_a_second_worker_does_not_take_over_the_path_of_one_that_listens(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'worker.sock'}"
    first, second = grpc.aio.server(options=SERVER_OPTIONS), grpc.aio.server(options=SERVER_OPTIONS)
    listen(first, address)
    await first.start()
    with pytest.raises(ListenError, match=f"cannot listen on {address}: Address already in use"):
        listen(second, address)
    await first.stop(grace=0)


class Busy:
    """A service that never gets idle."""

    def __init__(self) -> None:
        self.engine_died = asyncio.Event()

    async def drain(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("limit_s", "signals"), [(0.0, []), (LIMIT_S, [signal.SIGTERM]), (LIMIT_S, [signal.SIGINT])])
async def test_a_drain_ends_with_its_time_or_a_second_signal(
    limit_s: float, signals: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    received: asyncio.Queue[int] = asyncio.Queue()
    for number in signals:
        received.put_nowait(number)
    service: Any = Busy()
    async with asyncio.timeout(LIMIT_S / 2):
        await server_module._drain(service, received, limit_s)
    assert "before everything that ran had finished" in caplog.text


async def test_a_drain_ends_when_the_engine_dies() -> None:
    service: Any = Busy()
    service.engine_died.set()
    async with asyncio.timeout(LIMIT_S / 2):
        await server_module._drain(service, asyncio.Queue(), LIMIT_S)


async def ready_address(capsys: pytest.CaptureFixture[str]) -> str:
    """Waits for the ready line, and returns the address in it."""
    async with asyncio.timeout(LIMIT_S):
        while not (printed := capsys.readouterr().out):  # noqa: ASYNC110 - printing sets no event
            await asyncio.sleep(0.001)
    assert len(printed.splitlines()) == 1
    address: str = printed.split("address=")[1].split()[0]
    return address


async def test_a_lost_device_ends_serve_with_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: Plan) -> None:
        raise RuntimeError("the device is lost")

    engine = fake_engine()
    monkeypatch.setattr(engine, "try_again", lost)
    serving = asyncio.create_task(serve(Config(), prepared(engine)))
    async with grpc.aio.insecure_channel(await ready_address(capsys)) as channel:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Run()
        await call.write(submission(1, [EXPLOSIVE], 9))
        with pytest.raises(EngineDiedError):
            await asyncio.wait_for(serving, LIMIT_S)


async def test_an_engine_that_hangs_does_not_keep_serve_from_ending(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_S", 0.01)
    gate = Gate()
    serving = asyncio.create_task(serve(Config(drain_s=0.01), prepared(fake_engine(FakeModel(gate)))))
    async with grpc.aio.insecure_channel(await ready_address(capsys)) as channel:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Run()
        await call.write(submission(1, [5], 9))
        await asyncio.to_thread(gate.wait_until_held)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(EngineDiedError, match="does not come back"):
            await asyncio.wait_for(serving, LIMIT_S / 2)
    gate.allow(math.inf)


async def test_the_first_signal_drains_and_serve_returns(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    serving = asyncio.create_task(serve(Config(), prepared(fake_engine(FakeModel(gate)))))
    async with grpc.aio.insecure_channel(await ready_address(capsys)) as channel:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Run()
        await call.write(submission(1, [5], 9))
        await asyncio.to_thread(gate.wait_until_held)
        with caplog.at_level(logging.INFO, logger="worker"):
            signal.raise_signal(signal.SIGTERM)
            gate.allow(math.inf)
            tokens = [token async for answer in call for token in answer.step.token_ids]
            await asyncio.wait_for(serving, LIMIT_S)
    assert len(tokens) == 9
    assert "draining" in caplog.text
