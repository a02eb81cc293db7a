"""Gateways and workers that are started one by one, with a proxy before each worker, for scenes that restart them."""

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from client import AsyncClient
from client._channel import SERVICE_CONFIG
from tests.chaos.fleet import Kind
from tests.chaos.processes import Process
from tests.chaos.proxy import Proxy
from tests.chaos.recorder import Recorder

ROUND_ROBIN = json.dumps({**SERVICE_CONFIG, "loadBalancingConfig": [{"round_robin": {}}]})


class StaticFleet:
    """The processes of one run. Use `static_fleet`."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.record = Recorder(folder)
        self.workers: list[Process] = []
        self.gateways: list[Process] = []
        self.proxies: list[Proxy] = []

    @property
    def target(self) -> str:
        """All gateways, as one gRPC target."""
        addresses = [gateway.ready_line.split(" ready on ")[1].split()[0] for gateway in self.gateways]
        return f"ipv4:{','.join(addresses)}"

    def client(self) -> AsyncClient:
        """Spreads its calls over all gateways."""
        return AsyncClient(self.target, options={"grpc.service_config": ROUND_ROBIN})

    def tell(self) -> None:
        for gateway in self.gateways:
            gateway.tell()

    async def start(self, stack: AsyncExitStack, *, gateways: int, workers: int) -> None:
        ports = [_free_port() for _ in range(workers)]
        self.workers = [self._worker(port) for port in ports]
        self.proxies = [await stack.enter_async_context(Proxy("127.0.0.1", port)) for port in ports]
        flags = [flag for proxy in self.proxies for flag in ("--worker", proxy.address)]
        self.gateways = [
            Process("tests.chaos.gateway", ["--listen", f"127.0.0.1:{_free_port()}", *flags], self.folder)
            for _ in range(gateways)
        ]
        await asyncio.gather(*(worker.start() for worker in self.workers))
        await asyncio.gather(*(gateway.start() for gateway in self.gateways))

    async def stop(self) -> None:
        for processes in (self.gateways, self.workers):
            await asyncio.gather(*(process.stop() for process in processes if process.is_started))

    def _worker(self, port: int) -> Process:
        return Process(self.kind.module, ["--listen", f"127.0.0.1:{port}", *self.kind.flags], self.folder)


@asynccontextmanager
async def static_fleet(kind: Kind, *, gateways: int, workers: int) -> AsyncIterator[StaticFleet]:
    """Runs them until the scene leaves."""
    with tempfile.TemporaryDirectory(prefix="textserve-chaos-", ignore_cleanup_errors=True) as name:
        fleet = StaticFleet(kind, Path(name))
        async with AsyncExitStack() as stack:
            try:
                await fleet.start(stack, gateways=gateways, workers=workers)
                yield fleet
            finally:
                await fleet.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
