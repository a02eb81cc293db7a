"""The proxy passes bytes on, and does to connections what it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import Proxy

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Proxy, Connection]]:
    """A proxy before a server that sends all back, and says "end" at the end; and a connection through it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.write(b"end")
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, Proxy(host, port) as proxy:
        proxy_host, _, proxy_port = proxy.address.partition(":")
        reader, writer = await asyncio.open_connection(proxy_host, int(proxy_port))
        yield proxy, (reader, writer)
        writer.close()


async def test_bytes_go_both_ways() -> None:
    async with echoing() as (_, (reader, writer)):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"


async def test_what_is_held_comes_after_the_release() -> None:
    async with echoing() as (proxy, (reader, writer)):
        proxy.hold()
        writer.write(b"hello")
        reading = asyncio.create_task(reader.readexactly(5))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reading.done()
        proxy.release()
        assert await reading == b"hello"


async def test_a_cut_breaks_the_connection() -> None:
    async with echoing() as (proxy, (reader, writer)):
        writer.write(b"hello")
        await reader.readexactly(5)
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_a_half_close_ends_one_direction_alone() -> None:
    async with echoing() as (proxy, (reader, writer)):
        writer.write(b"hello")
        await reader.readexactly(5)
        proxy.half_close()
        assert await reader.read() == b"end"


async def test_a_delay_keeps_the_order() -> None:
    async with echoing() as (proxy, (reader, writer)):
        proxy.delay_s = 0.001
        for number in range(20):
            writer.write(b"%02d" % number)
            await writer.drain()
        assert await reader.readexactly(40) == b"".join(b"%02d" % number for number in range(20))


async def test_a_dead_target_breaks_the_connection() -> None:
    async with Proxy("127.0.0.1", 1) as proxy:
        host, _, port = proxy.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
