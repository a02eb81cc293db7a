"""Whoever leaves a stream, in whatever way, cancels its call: the server sees it."""

import asyncio
import threading

import pytest

from client import AsyncClient, CallCancelledError, Client, Delta
from tests.client.callers import Caller
from tests.client.scripted_server import STARTED, ScriptedServer, delta, hanging


def test_leaving_by_break_cancels_the_call(server: ScriptedServer, caller: Caller) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    caller.leave("hi", lambda each: False)
    assert left.wait(10)


def test_leaving_by_an_exception_cancels_the_call(server: ScriptedServer, caller: Caller) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))

    def fail(each: Delta) -> bool:
        raise LookupError(each.text)

    with pytest.raises(LookupError, match="a"):
        caller.leave("hi", fail)
    assert left.wait(10)


def test_a_forgotten_stream_is_cancelled(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    with Client(server.address) as client:
        for _ in client.stream("hi"):
            break
        assert left.wait(10)


def test_a_closed_stream_says_that_it_was_cancelled(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    with Client(server.address) as client, client.stream("hi") as stream:
        next(stream)
        stream.close()
        with pytest.raises(CallCancelledError):
            next(stream)
    assert left.wait(10)


async def test_a_closed_asynchronous_stream_says_that_it_was_cancelled(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    async with AsyncClient(server.address) as client, client.stream("hi") as stream:
        await anext(stream)
        await stream.close()
        with pytest.raises(CallCancelledError):
            await anext(stream)
    assert await asyncio.to_thread(left.wait, 10)


async def test_cancelling_a_task_cancels_its_call(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    reading = asyncio.Event()

    async def read(client: AsyncClient) -> None:
        async with client.stream("hi") as stream:
            async for _ in stream:
                reading.set()

    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(read(client))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(left.wait, 10)


async def test_closing_a_client_ends_its_calls_and_not_their_tasks(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    client = AsyncClient(server.address)
    stream = client.stream("hi")
    await anext(stream)
    reading = asyncio.Event()

    async def read() -> Delta:
        reading.set()
        return await anext(stream)

    waiting = asyncio.create_task(read())
    await reading.wait()
    await client.close()
    with pytest.raises(CallCancelledError):
        await waiting
    assert await asyncio.to_thread(left.wait, 10)
