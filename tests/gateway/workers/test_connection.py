"""A link to a worker outlives whatever goes wrong in it, says why, and never keeps the gateway from stopping."""

import logging
import socket

import pytest

from gateway.config import Config
from gateway.server import Gateway
from gateway.workers.pool.static import StaticPool
from tests.fakes import FakeWorker
from tests.gateway.serving import LOCAL, FakePool, request, serving, until


@pytest.mark.parametrize(
    "broken",
    [
        "gateway.workers.connection.shake_hands",
        "gateway.workers.connection.RunStream",
        "gateway.workers.connection.Liveness",
    ],
)
async def test_what_nobody_expects_of_a_link_is_logged_and_tried_again(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[object] = []

    def fail(*arguments: object, **_: object) -> None:
        attempts.append(arguments)
        raise ZeroDivisionError("nobody expects this")

    with monkeypatch.context() as patched:
        patched.setattr(broken, fail)
        async with serving(FakeWorker(runs_freely=True), ready=False) as served:
            await until(lambda: len(attempts) >= 2)
            assert "nobody expects this" in caplog.text
            assert "worker-0: unexpected ZeroDivisionError; next attempt" in caplog.text

            patched.undo()
            await served.gateway.ready.wait()
            assert (await served.caller.generate(request(max_new_tokens=1))).candidates[0].text == "a"


@pytest.mark.parametrize("broken", ["shut_down", "drain", "close", "links"])
async def test_a_stop_stops_the_pool_whatever_fails_before(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = FakePool(FakeWorker(), FakeWorker())
    gateway = Gateway(LOCAL, pool)
    await gateway.start()
    await gateway.ready.wait()

    def fail() -> None:
        raise ZeroDivisionError("nobody expects this")

    async def fail_later() -> None:
        fail()

    with monkeypatch.context() as patched:
        if broken == "links":
            patched.setattr(gateway._connections["worker-0"], "close", fail_later)
            await gateway.stop(0)
            assert "nobody expects this" in caplog.text
        else:
            patched.setattr(gateway.health if broken == "shut_down" else gateway.dispatcher, broken, fail)
            with pytest.raises(ZeroDivisionError):
                await gateway.stop(0)
        assert pool.stopped_with == [0]
    if broken == "links":
        await gateway._connections["worker-0"].close()
    else:
        await gateway.stop(0)


async def test_a_failure_to_close_the_link_of_a_lost_worker_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(FakeWorker()) as served:
        link = served.gateway._connections["worker-0"]

        async def fail() -> None:
            await close()
            raise ZeroDivisionError("nobody expects this")

        close = link.close
        monkeypatch.setattr(link, "close", fail)
        served.pool.down(0)
        await until(lambda: "nobody expects this" in caplog.text)


UNREACHABLE = {
    "no-such-host.invalid:50051": "no-such-host.invalid",
    "127.0.0.1:1": "refused",
}


@pytest.mark.parametrize("target", UNREACHABLE)
async def test_a_worker_that_cannot_be_reached_is_reported_with_the_reason(
    target: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("gateway.workers.connection.DESCRIBE_TIMEOUT_S", 0.5)
    gateway = Gateway(Config(listen="127.0.0.1:0", worker=(target,)), StaticPool((target,)))
    await gateway.start()
    try:
        await until(lambda: "next attempt" in caplog.text)
    finally:
        await gateway.stop(0)

    (line,) = {record.getMessage() for record in caplog.records if f"no answer from {target}" in record.getMessage()}
    assert UNREACHABLE[target] in line
    assert "Deadline Exceeded" not in line


async def test_a_worker_that_listens_and_does_not_answer_is_reported_as_that(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.workers.connection.DESCRIBE_TIMEOUT_S", 0.3)
    monkeypatch.setattr("gateway.workers.connection.REASON_TIMEOUT_S", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))  # the kernel takes connections for it
    target = f"127.0.0.1:{silent.getsockname()[1]}"
    gateway = Gateway(Config(listen="127.0.0.1:0", worker=(target,)), StaticPool((target,)))
    await gateway.start()
    try:
        await until(lambda: "next attempt" in caplog.text)
    finally:
        await gateway.stop(0)
        silent.close()

    assert f"no answer from {target}: nothing came within 0.3 s" in caplog.text
