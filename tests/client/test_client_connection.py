"""Where a client connects to, when, and what becomes of its calls when it is closed."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

from client import AsyncClient, CallCancelledError, Client, UnavailableError
from client._channel import checked_address, is_loopback
from client.cli.main import main
from tests.client.callers import Caller
from tests.client.conftest import Connect
from tests.client.scripted_server import ScriptedServer, serving

# Closed clients.


@pytest.mark.parametrize("call", [lambda c: c.generate("hi"), lambda c: c.models(), lambda c: c.stream("hi")])
def test_a_call_with_a_closed_client_is_an_error_of_the_tree(
    call: Callable[[Client], object], server: ScriptedServer
) -> None:
    client = Client(server.address)
    client.generate("hi")
    client.close()
    for _ in range(2):  # closing it once more changes nothing
        with pytest.raises(CallCancelledError, match="the client is closed"):
            call(client)
        client.close()
    assert len(server.calls) == 1


@pytest.mark.parametrize("has_called", [True, False])
async def test_a_call_with_a_closed_asynchronous_client_is_an_error_of_the_tree(
    server: ScriptedServer, *, has_called: bool
) -> None:
    client = AsyncClient(server.address)
    if has_called:
        await client.generate("hi")
    await client.close()
    for _ in range(2):
        with pytest.raises(CallCancelledError, match="the client is closed"):
            await client.generate("hi")
        with pytest.raises(CallCancelledError, match="the client is closed"):
            await client.models()
        with pytest.raises(CallCancelledError, match="the client is closed"):
            client.stream("hi")
        await client.close()
    assert len(server.calls) == has_called


def test_a_client_that_is_closed_by_another_thread_meanwhile_raises_no_other_error(server: ScriptedServer) -> None:
    def call(client: Client) -> None:
        while True:
            try:
                client.models()
            except CallCancelledError:
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at below
                errors.append(error)
                return

    errors: list[BaseException] = []
    for _ in range(20):
        client = Client(server.address)
        client.models()
        thread = threading.Thread(target=call, args=(client,))
        thread.start()
        client.close()
        thread.join()
        assert not thread.is_alive()
    assert errors == []


def test_a_wrong_argument_to_a_closed_client_is_a_wrong_argument(server: ScriptedServer) -> None:
    client = Client(server.address)
    client.close()
    with pytest.raises(ValueError, match="timeout"):
        client.generate("hi", timeout=0)


# Event loops.


def test_an_asynchronous_client_may_be_made_before_there_is_a_loop(server: ScriptedServer) -> None:
    client = AsyncClient(server.address)

    async def use() -> str:
        async with client, client.stream("hi") as stream:
            return (await client.generate("hi")).text + "".join([each.text async for each in stream])

    assert asyncio.run(use()) == ", green, green"


def test_an_asynchronous_client_that_makes_no_call_needs_no_loop_of_its_own(server: ScriptedServer) -> None:
    client = AsyncClient(server.address)
    asyncio.run(client.close())
    asyncio.run(client.close())


def calls_of(client: AsyncClient) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    async def stream() -> object:
        return client.stream("hi")

    return [lambda: client.generate("hi"), client.models, stream]


def test_in_another_loop_than_before_it_says_what_is_wrong(server: ScriptedServer) -> None:
    client = AsyncClient(server.address)
    asyncio.run(client.generate("hi"))
    for call in calls_of(client):
        with pytest.raises(RuntimeError, match=r"belongs to another event loop.*make one client for each loop"):
            asyncio.run(call())
    asyncio.run(client.close())


async def test_while_its_loop_runs_another_one_can_neither_use_nor_close_it(server: ScriptedServer) -> None:
    async with AsyncClient(server.address) as client:
        await client.generate("hi")
        for call in (*calls_of(client), client.close):
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await asyncio.to_thread(asyncio.run, call())
        assert (await client.generate("hi")).text == ", green"


def test_a_stream_without_a_running_loop_says_what_is_wrong(server: ScriptedServer) -> None:
    client = AsyncClient(server.address)
    with pytest.raises(RuntimeError, match="in a running event loop"):
        client.stream("hi")


# Addresses.


@pytest.mark.parametrize(
    "address",
    [
        "localhost:50051",
        "gateway.example:1",
        "127.0.0.1:65535",
        "[::1]:50051",
        "[fe80::1%eth0]:50051",
        "unix:/run/textserve.sock",
        "unix:textserve.sock",
        "unix:///run/textserve.sock",
        "unix-abstract:textserve",
        "dns:///gateway.example:50051",
        "dns://8.8.8.8/gateway.example:50051",
        "dns:gateway.example:50051",
        "ipv4:10.0.0.1:50051,10.0.0.2:50051",
        "ipv6:[::1]:50051",
        "xds:///gateway",
    ],
)
def test_an_address_with_a_port_or_a_path_is_taken(address: str) -> None:
    assert checked_address(address, None) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "127.0.0.1",
        ":50051",
        "localhost:",
        "localhost:http",
        "localhost:0",
        "localhost:65536",
        "localhost:50051 ",
        "::1",
        "::1:50051",
        "[::1]",
        "unix:",
        "http://localhost:50051",
        "https://gateway.example",
        "localhost:50051/",
        "dns:///gateway.example",
        "ipv4:10.0.0.1:50051,10.0.0.2",
    ],
)
def test_an_address_at_which_grpc_would_look_elsewhere_is_refused(
    address: str, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="address"):
        Client(address)
    with pytest.raises(ValueError, match="address"):
        AsyncClient(address)
    assert main(["models", f"--address={address}"]) == 2
    assert "address" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["gateway.example", "dns:///gateway.example", "[::1]"])
def test_with_tls_the_port_may_be_left_out(address: str) -> None:
    assert checked_address(address, grpc.ssl_channel_credentials()) == address


@pytest.mark.parametrize("address", ["", "unix:", "http://localhost:50051", "::1", "localhost:0"])
def test_with_tls_the_rest_is_checked_as_well(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        checked_address(address, grpc.ssl_channel_credentials())


def test_what_is_no_text_is_no_address() -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="address must be a str"):
        Client(nothing)


# Proxies.


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("127.1:1", True),
        ("localhost:1", True),
        ("LocalHost.:1", True),
        ("a.localhost:1", True),
        ("[::1]:1", True),
        ("[0:0:0:0:0:0:0:1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("unix:/x", True),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
        ("127.0.0.1.example:1", False),
        ("gateway:1", False),
        ("[2001:db8::1]:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("xds:///localhost", False),
    ],
)
def test_what_lies_on_this_machine_is_known_by_its_address(address: str, is_here: bool) -> None:  # noqa: FBT001
    assert is_loopback(address) is is_here


PROXIES = ("http_proxy", "https_proxy", "grpc_proxy")


@pytest.fixture
def broken_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("broken_proxy")
def test_a_gateway_on_this_machine_is_reached_without_the_proxy(server: ScriptedServer, connect: Connect) -> None:
    assert connect().generate("hi").text == ", green"
    port = server.address.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "dns:///localhost", "ipv4:127.0.0.1"):
        assert main(["models", "--address", f"{host}:{port}"]) == 0


@pytest.mark.usefixtures("broken_proxy")
def test_a_gateway_on_ipv6_is_reached_without_the_proxy(caller_at: Callable[[str], Caller]) -> None:
    with serving(ScriptedServer(), "[::1]") as server:
        assert server.address.startswith("[::1]:")
        assert caller_at(server.address).generate("hi").text == ", green"
        assert main(["models", "--address", server.address]) == 0


@pytest.mark.usefixtures("broken_proxy")
def test_an_option_can_bring_the_proxy_back(connect: Connect) -> None:
    with pytest.raises(UnavailableError):
        connect(options={"grpc.enable_http_proxy": 1}).generate("hi", timeout=5)


def test_what_lies_elsewhere_is_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        with Client("gateway.example:50051") as client:
            stream = client.stream("hi")
            connection, _ = proxy.accept()
            with connection:
                assert connection.recv(100).startswith(b"CONNECT gateway.example:50051")
            stream.close()


# What goes with every call.


@pytest.mark.parametrize(
    "pair",
    [
        ("Upper", "x"),
        ("with space", "x"),
        ("", "x"),
        ("grpc-timeout", "1S"),
        ("a", "caf\u00e9"),
        ("a", "two\nlines"),
        ("a", b"bytes"),
        ("a-bin", "text"),
        ("a", 5),
    ],
)
def test_metadata_that_cannot_be_sent_is_refused_before_any_call(pair: tuple[str, Any], server: ScriptedServer) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises((TypeError, ValueError), match="metadata"):
            kind(server.address, metadata=[pair])
