from collections.abc import Callable, Iterator

import pytest

from tests.client.callers import AsyncCaller, BlockingCaller, Caller
from tests.client.scripted_server import ScriptedServer, serving

Connect = Callable[..., Caller]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(ScriptedServer()) as server:
        yield server


@pytest.fixture(params=[BlockingCaller, AsyncCaller])
def connect(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Connect]:
    """Connects either client to the server."""
    callers: list[Caller] = []

    def connect(**options: object) -> Caller:
        callers.append(request.param(server.address, **options))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.close()


@pytest.fixture
def caller(connect: Connect) -> Caller:
    """Either client, connected to the server."""
    return connect()
