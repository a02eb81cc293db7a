"""One connection gets only so many calls at a time, and harms nobody who has another one."""

import asyncio
from pathlib import Path

import pytest
from grpc import aio

from client import AsyncClient
from gateway.config import Config
from tests.fakes import FakeWorker
from tests.gateway.serving import request, serving
from textserve.v1 import generation_pb2_grpc

FEW = Config(listen="127.0.0.1:0", max_connection_calls=4)


async def test_what_a_connection_begins_beyond_its_calls_waits_at_the_caller_and_all_of_it_is_answered() -> None:
    async with serving(FakeWorker(rows=100), config=FEW) as served:
        calls = [served.caller.generation.Generate(request(max_new_tokens=1)) for _ in range(40)]
        await served.worker.until(lambda: served.worker.row_count == 4)
        async with aio.insecure_channel(served.gateway.address, options=[("grpc.use_local_subchannel_pool", 1)]) as own:
            other = generation_pb2_grpc.GenerationServiceStub(own).Generate(request(max_new_tokens=1))
            await served.worker.until(lambda: served.worker.row_count == 5)
            assert served.gateway.dispatcher.running_count == 5
            served.worker.runs_freely = True
            served.worker.step()
            await asyncio.gather(other, *calls)
        await served.nothing_runs()


async def test_the_client_opens_more_connections_for_more_calls() -> None:
    async with serving(FakeWorker(rows=100), config=FEW) as served, AsyncClient(served.gateway.address) as client:
        calls = [asyncio.create_task(client.generate("ab", max_new_tokens=1)) for _ in range(20)]
        await served.worker.until(lambda: served.worker.row_count == 20)
        served.worker.step()
        await asyncio.gather(*calls)
        await served.nothing_runs()


@pytest.mark.parametrize("address", ["[::1]:0", "localhost:0", "127.0.0.1:0", "unix:gateway.sock"])
async def test_a_gateway_is_reached_at_the_address_that_it_tells(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = FakeWorker(runs_freely=True)
    worker.target = "[::1]:0"
    async with serving(worker, config=Config(listen=address)) as served, AsyncClient(served.gateway.address) as client:
        assert served.gateway.address.startswith(address.removesuffix("0"))
        assert worker.target.startswith("[::1]:")
        worker.step()
        assert (await client.generate("ab", max_new_tokens=1)).candidates[0].text


async def test_workers_are_reached_without_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    worker = FakeWorker(runs_freely=True)
    async with serving(worker) as served, AsyncClient(served.gateway.address) as client:
        worker.step()
        assert (await client.generate("ab", max_new_tokens=1)).candidates[0].text
