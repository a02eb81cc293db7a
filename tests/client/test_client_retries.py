"""What is tried again and what is not, with both clients."""

from collections.abc import Callable

import grpc
import pytest

from client import ResourceExhaustedError, UnavailableError
from tests.client.callers import Caller
from tests.client.scripted_server import ANSWER, Request, Response, ScriptedServer, failing


def unavailable(server: ScriptedServer, times: int) -> Callable[[Request, grpc.ServicerContext], None]:
    """Lets the first calls fail, as a gateway does that restarts."""

    def check(request: Request, context: grpc.ServicerContext) -> None:
        if len(server.requests) <= times:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    return check


def test_a_call_that_was_not_begun_is_tried_again(server: ScriptedServer, caller: Caller) -> None:
    check = unavailable(server, times=2)
    server.answer = lambda request, context: check(request, context) or ANSWER
    assert caller.generate("hi").text == ", green"
    assert len(server.requests) == 3


def test_a_stream_that_has_delivered_nothing_is_tried_again(server: ScriptedServer, caller: Caller) -> None:
    check, script = unavailable(server, times=2), server.script
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
