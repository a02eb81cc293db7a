"""Every answer and every error carries the name that the gateway's log has for the call."""

import logging
import re
from collections.abc import Awaitable, Callable

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2

from client import AsyncClient, InvalidRequestError
from gateway.config import Config
from tests.fakes import FakeWorker
from tests.gateway.serving import Served, failing, request, serving
from textserve.v1 import generation_pb2 as pb

NAME = re.compile(r"[0-9a-f]{16}")
SERVICE = "/textserve.v1.GenerationService"
SMALL = Config(listen="127.0.0.1:0", max_message_bytes=1000)


def raw(served: Served, method: str, data: bytes) -> Awaitable[object]:
    """A call of any method with any bytes."""
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = served.caller.channel.unary_unary(method)
    return call(data)


def _health(served: Served) -> Awaitable[object]:
    check = health_pb2.HealthCheckRequest(service="nope").SerializeToString()
    return raw(served, "/grpc.health.v1.Health/Check", check)


FAILING: dict[str, Callable[[Served], Awaitable[object]]] = {
    "INVALID_ARGUMENT": lambda served: served.caller.generate(pb.GenerateRequest()),
    "INVALID_ARGUMENT of a stream": lambda served: served.caller.stream(pb.GenerateRequest(text="a", request_id="x")),
    "NOT_FOUND": lambda served: served.caller.generate(pb.GenerateRequest(text="a", model="nope")),
    "UNDECODABLE_MESSAGE": lambda served: raw(served, f"{SERVICE}/Generate", b"\xff\xff"),
    "MESSAGE_TOO_LARGE": lambda served: served.caller.generate(request("a" * 1500)),
    "UNKNOWN_METHOD": lambda served: raw(served, f"{SERVICE}/Nope", b""),
    "UNKNOWN_METHOD of another service": lambda served: raw(served, "/nope.Nope/Nope", b""),
    "UNKNOWN_SERVICE": _health,
}


@pytest.mark.parametrize("kind", FAILING)
async def test_every_error_has_a_name_that_the_log_has(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(FakeWorker(), config=SMALL) as served:
        failures = [await failing(FAILING[kind](served)) for _ in range(2)]

    names = [failure.detail(error_details_pb2.RequestInfo).request_id for failure in failures]
    assert all(NAME.fullmatch(name) for name in names)
    assert names[0] != names[1]
    if "UNKNOWN_METHOD" not in kind:
        assert all(name in caplog.text for name in names)


@pytest.mark.parametrize("make", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_a_method_that_does_not_exist_is_unimplemented_whatever_its_kind(make: str) -> None:
    async with serving(FakeWorker()) as served:
        call = getattr(served.caller.channel, make)(f"{SERVICE}/Nope")
        argument = b"" if make.startswith("unary") else iter((b"",))
        if make.endswith("unary"):
            failure = await failing(call(argument))
        else:
            failure = await failing(call(argument).read())

    assert (failure.code, failure.reason) == (StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")


async def test_an_answer_a_stream_and_the_log_have_one_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(FakeWorker(runs_freely=True)) as served:
        answer = await served.caller.generate(request(max_new_tokens=1))
        stream = await served.caller.stream(request(max_new_tokens=1))

    name = stream[0].started.server_request_id
    assert stream[-1].finished.receipt.server_request_id == name
    assert answer.receipt.server_request_id != name
    for each in (name, answer.receipt.server_request_id):
        assert NAME.fullmatch(each)
        assert f"request {each}: LENGTH" in caplog.text


async def test_calls_that_share_an_answer_are_told_the_name_of_the_one_that_made_it() -> None:
    message = request(max_new_tokens=1)
    message.request_id = "mine"
    async with serving(FakeWorker(runs_freely=True)) as served:
        first, again = await served.caller.generate(message), await served.caller.generate(message)
    assert first.receipt.server_request_id == again.receipt.server_request_id


async def test_a_bug_has_a_name_in_the_log_and_nothing_else_for_its_caller(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError("secret")

    async with serving(FakeWorker()) as served:
        monkeypatch.setattr(served.gateway.dispatcher, "check_open", fail)
        failure = await failing(served.caller.generate(request()))

    name = failure.detail(error_details_pb2.RequestInfo).request_id
    assert failure.message == "internal error"
    assert f"request {name}: {SERVICE}/Generate failed" in caplog.text
    assert "secret" in caplog.text


async def test_the_client_has_the_name_of_answers_streams_and_errors() -> None:
    async with serving(FakeWorker(runs_freely=True)) as served, AsyncClient(served.gateway.address) as client:
        assert NAME.fullmatch((await client.generate("ab", max_new_tokens=1)).server_request_id)
        async with client.stream("ab", max_new_tokens=1) as stream:
            assert [delta.text async for delta in stream] == ["a"]
        assert NAME.fullmatch(stream.result.server_request_id)
        assert stream.result.server_request_id == stream.started.server_request_id
        with pytest.raises(InvalidRequestError) as caught:
            await client.generate("ab", top_k=-1)
        assert NAME.fullmatch(caught.value.server_request_id)


async def test_a_name_of_the_callers_own_is_refused_on_a_stream() -> None:
    async with serving(FakeWorker(), config=SMALL) as served:
        failure = await failing(served.caller.stream(pb.GenerateRequest(text="ab", request_id="mine")))
        assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "NOT_STREAMABLE")
        (violation,) = failure.detail(error_details_pb2.BadRequest).field_violations
        assert violation.field == "request_id"
        both = pb.GenerateRequest(text="", request_id="mine", generation_config=pb.GenerationConfig(top_k=-1))
        failure = await failing(served.caller.stream(both))
        fields = {each.field for each in failure.detail(error_details_pb2.BadRequest).field_violations}
        assert fields == {"text", "request_id", "generation_config.top_k"}
