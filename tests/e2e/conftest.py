"""A real gateway process with two real workers on the bundled model, shared by the tests of this folder."""

from collections.abc import AsyncIterator

import pytest_asyncio

from client import AsyncClient
from examples.gateway_process import GatewayProcess


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def gateway() -> AsyncIterator[GatewayProcess]:
    async with GatewayProcess(["--workers", "2", "--reflection", "--", "--max-rows", "8"]) as process:
        yield process
    assert process.exit_code == 0


@pytest_asyncio.fixture(loop_scope="session")
async def client(gateway: GatewayProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.address) as connected:
        yield connected
