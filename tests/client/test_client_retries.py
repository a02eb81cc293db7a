"""What is tried again and what is not, with both clients."""

import asyncio
import threading
from collections.abc import Callable

import grpc
import pytest

from client import AsyncClient, ResourceExhaustedError, UnavailableError
from tests.client.callers import Caller
from tests.client.scripted_server import ANSWER, Request, Response, ScriptedServer, failing, never_answering

RESTARTING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""What becomes of calls to a gateway that restarts: the second in the instant that it stops listening."""


def unavailable(
    server: ScriptedServer, times: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
) -> Callable[[Request, grpc.ServicerContext], None]:
    """Lets the first calls fail, as a gateway does that restarts."""

    def check(request: Request, context: grpc.ServicerContext) -> None:
        if len(server.requests) <= times:
            context.abort(code, "restarting")

    return check


@pytest.mark.parametrize("code", RESTARTING)
def test_a_call_that_was_not_begun_is_tried_again(
    server: ScriptedServer, caller: Caller, code: grpc.StatusCode
) -> None:
    check = unavailable(server, 2, code)
    server.answer = lambda request, context: check(request, context) or ANSWER
    assert caller.generate("hi").text == ", green"
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", RESTARTING)
def test_a_stream_that_has_delivered_nothing_is_tried_again(
    server: ScriptedServer, caller: Caller, code: grpc.StatusCode
) -> None:
    check, script = unavailable(server, 2, code), server.script
    server.script = lambda request, context: check(request, context) or script(request, context)
    assert caller.read("hi").result.text == ", green"
    assert len(server.requests) == 3


def test_a_large_request_is_tried_again_too(server: ScriptedServer, caller: Caller) -> None:
    check = unavailable(server, times=1)
    server.answer = lambda request, context: check(request, context) or ANSWER
    caller.generate("x" * 2_000_000)
    assert [len(each.text) for each in server.requests] == [2_000_000] * 2


def test_other_failures_are_not_tried_again(server: ScriptedServer, caller: Caller) -> None:
    def refuse(request: Request, context: grpc.ServicerContext) -> Response:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full")

    server.answer = refuse
    with pytest.raises(ResourceExhaustedError):
        caller.generate("hi")
    assert len(server.requests) == 1


def test_a_server_can_forbid_to_try_again(server: ScriptedServer, caller: Caller) -> None:
    server.answer = failing(grpc.StatusCode.UNAVAILABLE)  # with a trailer that says so
    with pytest.raises(UnavailableError):
        caller.generate("hi")
    assert len(server.requests) == 1


async def test_what_the_caller_cancels_is_not_tried_again(server: ScriptedServer) -> None:
    left = threading.Event()
    server.answer = never_answering(left)
    async with AsyncClient(server.address) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.generate("hi")
        assert await asyncio.to_thread(left.wait)
        server.answer = lambda request, context: ANSWER
        # A first retry would come within 0.12 s.
        await asyncio.sleep(0.2)
        await client.generate("there")
    assert [each.text for each in server.requests] == ["hi", "there"]
