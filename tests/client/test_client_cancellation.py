"""Whoever leaves a stream, in whatever way, cancels its call: the server sees it."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import grpc
import pytest

from client import AsyncClient, CallCancelledError, Client, Delta
from tests.client.callers import Caller
from tests.client.processes import environment
from tests.client.scripted_server import STARTED, Event, Request, ScriptedServer, delta, hanging


def test_leaving_by_break_cancels_the_call(server: ScriptedServer, caller: Caller) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    caller.leave("hi", lambda each: False)
    assert left.wait()


def test_leaving_by_an_exception_cancels_the_call(server: ScriptedServer, caller: Caller) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))

    def fail(each: Delta) -> bool:
        raise LookupError(each.text)

    with pytest.raises(LookupError, match="a"):
        caller.leave("hi", fail)
    assert left.wait()


class Lasting:
    """A stream that tells one delta, and nothing more until its caller has left."""

    def __init__(self, server: ScriptedServer) -> None:
        self.begun, self.left = threading.Event(), threading.Event()
        self._hang = hanging(self.left, STARTED, delta("a"))
        server.script = self._script

    def _script(self, request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        events = self._hang(request, context)
        self.begun.set()
        return events


async def read_one(client: AsyncClient, _: Lasting) -> None:
    async for _delta in client.stream("hi"):
        break


async def forward_one(client: AsyncClient, _: Lasting) -> None:
    """As a web server does whose reader leaves: it drops the generator that reads the stream."""

    async def texts() -> AsyncIterator[str]:
        async for each in client.stream("hi"):
            yield each.text

    async for _text in texts():
        break


async def stay_in_a_cycle(client: AsyncClient, _: Lasting) -> None:
    stream = client.stream("hi")
    await anext(stream)
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()


async def start_and_forget(client: AsyncClient, lasting: Lasting) -> None:
    stream = client.stream("hi")
    await asyncio.to_thread(lasting.begun.wait, 10)
    del stream


async def fail_inside(client: AsyncClient, _: Lasting) -> None:
    async def fail() -> None:
        async for each in client.stream("hi"):
            raise LookupError(each.text)

    with pytest.raises(LookupError):
        await fail()


async def forget_in_a_thread(client: AsyncClient, _: Lasting) -> None:
    held = [client.stream("hi")]
    await anext(held[0])
    await asyncio.to_thread(held.clear)


@pytest.mark.parametrize(
    "forget", [read_one, forward_one, stay_in_a_cycle, start_and_forget, fail_inside, forget_in_a_thread]
)
async def test_a_forgotten_asynchronous_stream_is_cancelled(
    forget: Callable[[AsyncClient, Lasting], Awaitable[None]], server: ScriptedServer
) -> None:
    lasting = Lasting(server)
    async with AsyncClient(server.address) as client:
        gc.disable()  # it may not be what helps
        try:
            await forget(client, lasting)
            assert await asyncio.to_thread(lasting.left.wait)
        finally:
            gc.enable()


def test_a_forgotten_stream_is_cancelled(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    with Client(server.address) as client:
        for _ in client.stream("hi"):
            break
        assert left.wait()


def test_a_forgotten_stream_in_a_cycle_is_cancelled(server: ScriptedServer) -> None:
    lasting = Lasting(server)
    with Client(server.address) as client:
        cycle: list[object] = [client.stream("hi")]
        cycle.append(cycle)
        assert lasting.begun.wait()
        del cycle
        gc.collect()
        assert lasting.left.wait()


FORGETFUL = """
import asyncio
from client import AsyncClient, Client

held = []

async def read(client, close):
    async for _ in client.stream("hi"):
        break
    stream = client.stream("hi")
    await anext(stream)
    held.append(stream)
    if close:
        await client.close()

{ending}
"""


@pytest.mark.parametrize(
    "ending",
    [
        "asyncio.run(read(AsyncClient({address!r}), close=True))",
        "asyncio.run(read(AsyncClient({address!r}), close=False))",
        "client = AsyncClient({address!r}); asyncio.run(read(client, close=False))",
        "client = AsyncClient({address!r}); asyncio.run(read(client, close=False)); held.clear()",
        "client = AsyncClient({address!r}); asyncio.run(read(client, close=False)); asyncio.run(client.close())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(read(AsyncClient({address!r}), close=False))\n"
        "loop.close()",
        "client = Client({address!r}); held.append(client.stream('hi')); next(held[0])",
        "client = Client({address!r})\nfor _ in client.stream('hi'): break",
    ],
)
def test_what_is_forgotten_or_left_open_ends_a_process_without_a_word(ending: str, server: ScriptedServer) -> None:
    server.script = hanging(threading.Event(), STARTED, delta("a"))
    code = FORGETFUL.format(ending=ending.format(address=server.address))
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", code]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_closed_stream_says_that_it_was_cancelled(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    with Client(server.address) as client, client.stream("hi") as stream:
        next(stream)
        stream.close()
        with pytest.raises(CallCancelledError):
            next(stream)
    assert left.wait()


async def test_a_closed_asynchronous_stream_says_that_it_was_cancelled(server: ScriptedServer) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    async with AsyncClient(server.address) as client, client.stream("hi") as stream:
        await anext(stream)
        await stream.close()
        with pytest.raises(CallCancelledError):
            await anext(stream)
    assert await asyncio.to_thread(left.wait)


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
        assert await asyncio.to_thread(left.wait)


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
    assert await asyncio.to_thread(left.wait)
