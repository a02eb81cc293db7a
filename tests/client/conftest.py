from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.client.callers import AsyncCaller, BlockingCaller, Caller
from tests.client.scripted_server import ScriptedServer, serving

Connect = Callable[..., Caller]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(ScriptedServer()) as server:
        yield server


@pytest.fixture(params=[BlockingCaller, AsyncCaller])
def caller_at(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Connects either client to an address."""
    callers: list[Caller] = []

    def connect(address: str, **options: object) -> Caller:
        callers.append(request.param(address, **options))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.close()


@pytest.fixture
def connect(caller_at: Connect, server: ScriptedServer) -> Connect:
    """Connects either client to the server."""
    return partial(caller_at, server.address)


@pytest.fixture
def caller(connect: Connect) -> Caller:
    """Either client, connected to the server."""
    return connect()
