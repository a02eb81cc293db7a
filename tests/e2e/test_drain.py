"""Workers and gateways that are told to stop, in either order: nothing is lost."""

import asyncio
import os
import signal

import psutil
import pytest

from client import AsyncClient, Generation
from examples.gateway_process import GatewayProcess

TOKENS = 450
IN_ANY_TIME = ["--grace", "3600", "--", "--drain-s", "3600"]
"""What is to finish finishes, however slow the machine is."""


def workers_of(gateway: GatewayProcess) -> list[psutil.Process]:
    return psutil.Process(gateway.pid).children()


async def result(client: AsyncClient, started: asyncio.Event) -> Generation:
    """Runs a long stream to its end."""
    request = client.stream(
        "Once upon a time", max_new_tokens=TOKENS, ignore_eos=True, temperature=5.0, seed=1, timeout=3600
    )
    async with request as stream:
        text = ""
        async for delta in stream:
            started.set()
            text += delta.text
        assert text == stream.result.text
        assert stream.result.usage.output_token_count == TOKENS
        return stream.result


async def running(client: AsyncClient, count: int) -> list["asyncio.Task[Generation]"]:
    """Streams that have begun."""
    events = [asyncio.Event() for _ in range(count)]
    streams = [asyncio.create_task(result(client, event)) for event in events]
    await asyncio.gather(*(event.wait() for event in events))
    return streams


async def ready(client: AsyncClient, count: int) -> None:
    # Processes end and come back; nothing in this one could tell us.
    while (await client.models())[0].ready_worker_count != count:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def ended(processes: list[psutil.Process]) -> None:
    """Waits for their end."""
    await asyncio.to_thread(psutil.wait_procs, processes)


@pytest.mark.long
async def test_a_worker_that_is_told_to_stop_finishes_what_runs_there_and_comes_back() -> None:
    async with GatewayProcess(["--workers", "2", *IN_ANY_TIME]) as gateway, AsyncClient(gateway.address) as client:
        streams = await running(client, 4)
        leaving = workers_of(gateway)[0]
        leaving.send_signal(signal.SIGTERM)
        results = await asyncio.gather(*streams)
        assert [each.attempt_count for each in results] == [1] * 4
        await ended([leaving])
        await ready(client, 2)


@pytest.mark.long
async def test_what_a_worker_cannot_finish_in_its_time_moves_to_another_one() -> None:
    flags = ["--workers", "2", "--", "--drain-s", "0"]
    async with GatewayProcess(flags) as gateway, AsyncClient(gateway.address) as client:
        leaving = workers_of(gateway)[0]
        streams = await running(client, 64)  # so many that they take longer than the second in which a worker closes
        leaving.send_signal(signal.SIGTERM)
        results = await asyncio.gather(*streams)
        assert {each.attempt_count for each in results} == {1, 2}


async def test_a_worker_and_then_its_gateway_told_to_stop_lose_nothing() -> None:
    async with GatewayProcess(["--workers", "1", *IN_ANY_TIME]) as gateway, AsyncClient(gateway.address) as client:
        workers = workers_of(gateway)
        streams = await running(client, 3)
        workers[0].send_signal(signal.SIGTERM)
        os.kill(gateway.pid, signal.SIGTERM)
        await asyncio.gather(*streams)
        assert await gateway.wait() == 0
        await ended(workers)


@pytest.mark.long
async def test_a_gateway_and_then_its_worker_told_to_stop_lose_nothing() -> None:
    async with GatewayProcess(["--workers", "1", *IN_ANY_TIME]) as gateway, AsyncClient(gateway.address) as client:
        workers = workers_of(gateway)
        streams = await running(client, 3)
        os.kill(gateway.pid, signal.SIGTERM)
        workers[0].send_signal(signal.SIGTERM)
        await asyncio.gather(*streams)
        assert await gateway.wait() == 0
        await ended(workers)
