"""What happens to real processes: workers that are killed, gateways that are killed, and Ctrl-C."""

import asyncio
import os
import signal

import psutil
import pytest

from client import AsyncClient, TextserveError, UnavailableError
from examples.gateway_process import GatewayProcess

WAIT_S = 60


def children(gateway: GatewayProcess) -> list[psutil.Process]:
    return psutil.Process(gateway.pid).children()


async def gone(processes: list[psutil.Process]) -> bool:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, WAIT_S)
    return not alive


async def outcome(client: AsyncClient, started: asyncio.Event) -> str:
    """Runs a long stream; returns the worker that finished it, or the reason why none did."""
    try:
        async with client.stream("Once upon a time", max_new_tokens=400, temperature=5.0, seed=1) as stream:
            async for _ in stream:
                started.set()
            return stream.result.worker
    except UnavailableError as error:
        return error.reason


async def test_a_killed_worker_ends_its_streams_alone_and_comes_back() -> None:
    async with GatewayProcess(["--workers", "2"]) as gateway, AsyncClient(gateway.address) as client:
        events = [asyncio.Event() for _ in range(4)]
        streams = [asyncio.create_task(outcome(client, event)) for event in events]
        await asyncio.gather(*(event.wait() for event in events))
        victim, other = children(gateway)
        victim.kill()
        outcomes = await asyncio.gather(*streams)
        assert outcomes.count("WORKER_LOST") == 2
        assert len({worker for worker in outcomes if worker != "WORKER_LOST"}) == 1
        assert (await client.generate("A, B, C", max_new_tokens=4)).text
        async with asyncio.timeout(WAIT_S):
            # A process comes back; nothing in this one could tell us.
            while (await client.models())[0].ready_worker_count < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert other.is_running()


async def test_a_killed_gateway_leaves_no_worker_behind() -> None:
    async with GatewayProcess(["--workers", "2"]) as gateway:
        workers = children(gateway)
        assert len(workers) == 2
        os.kill(gateway.pid, signal.SIGKILL)
        assert await gone(workers)


async def test_an_interrupt_lets_running_streams_finish_and_refuses_new_ones() -> None:
    async with GatewayProcess(["--workers", "1"]) as gateway, AsyncClient(gateway.address) as client:
        workers = children(gateway)
        async with client.stream("Once upon a time", max_new_tokens=200, temperature=5.0, seed=1) as stream:
            await anext(stream)
            os.kill(gateway.pid, signal.SIGINT)
            text = [delta.text async for delta in stream]
        assert stream.result.text.endswith(text[-1])
        assert await gateway.wait() == 0
        assert await gone(workers)
        with pytest.raises(TextserveError):
            await client.generate("A, B, C", timeout=5)
