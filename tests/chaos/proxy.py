"""A TCP proxy on the loopback that delays, swallows, half-closes and cuts what goes through it."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes all on to one target."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.delay_s = 0.0
        """Before each piece is passed on, in either direction."""

    @property
    def address(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @property
    def connection_count(self) -> int:
        return len(self._tasks)

    def hold(self) -> None:
        """Passes nothing on until `release`: the network is silent."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Breaks all connections, as a reset does."""
        for writer in self._writers:
            writer.transport.abort()

    def half_close(self) -> None:
        """Ends what all connections send to the target; the way back stays open."""
        for writer in self._writers:
            if writer.get_extra_info("peername")[:2] == self._target and writer.can_write_eof():
                writer.write_eof()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._open.set()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, target_writer}
        self._writers |= ends
        try:
            await asyncio.gather(self._pass_on(reader, target_writer), self._pass_on(target_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # a side that is cut, or written to behind its half-close
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self.delay_s)
                await self._open.wait()
                if writer.transport.is_closing():
                    return
                with contextlib.suppress(RuntimeError):  # behind a half-close: as a lost packet
                    writer.write(data)
                await writer.drain()
            if writer.can_write_eof() and not writer.transport.is_closing():
                writer.write_eof()
