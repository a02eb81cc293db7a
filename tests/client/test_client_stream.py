"""What holds for streams, with the blocking client and with the asynchronous one."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import pytest

from client import (
    AsyncClient,
    Client,
    Delta,
    InvalidRequestError,
    ServerError,
    Started,
    UnavailableError,
)
from tests.client.callers import Caller
from tests.client.processes import environment
from tests.client.scripted_server import (
    FINISHED,
    SERVER_REQUEST_ID,
    STARTED,
    Event,
    Request,
    ScriptedServer,
    delta,
    failing,
    hanging,
    telling,
)
from textserve.v1 import generation_pb2


def test_a_stream_tells_its_start_its_deltas_and_its_result(caller: Caller) -> None:
    reading = caller.read("hi")
    assert reading.started == Started("tutor", seed=7, prompt_token_count=3, server_request_id=SERVER_REQUEST_ID)
    assert reading.deltas == [Delta(", "), Delta("green")]
    assert reading.result.text == ", green"


def test_a_delta_arrives_before_the_next_is_made(server: ScriptedServer, caller: Caller) -> None:
    seen = threading.Event()

    def script(request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        yield STARTED
        yield delta("a")
        assert seen.wait()
        yield delta("b")
        yield FINISHED

    server.script = script
    texts: list[str] = []

    def note(each: Delta) -> bool:
        texts.append(each.text)
        seen.set()
        return True

    caller.leave("hi", note)
    assert texts == ["a", "b"]


def test_the_start_is_known_before_any_text_is_made(server: ScriptedServer) -> None:
    server.script = hanging(threading.Event(), STARTED)
    with Client(server.address) as client, client.stream("hi") as stream:
        assert stream.started.seed == 7


def test_a_refusal_is_raised_on_entering(server: ScriptedServer) -> None:
    server.script = failing(grpc.StatusCode.INVALID_ARGUMENT)
    with Client(server.address) as client, pytest.raises(InvalidRequestError), client.stream("hi"):
        pytest.fail("the stream was entered")


def test_what_was_delivered_before_an_error_stands(server: ScriptedServer, caller: Caller) -> None:
    def script(request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        yield from (STARTED, delta("a"), delta("b"), delta("c"))
        context.abort(grpc.StatusCode.UNAVAILABLE, "worker lost")

    server.script = script
    texts: list[str] = []

    def note(each: Delta) -> bool:
        texts.append(each.text)
        return True

    with pytest.raises(UnavailableError, match="worker lost"):
        caller.leave("hi", note)
    assert texts == ["a", "b", "c"]
    assert len(server.requests) == 1  # not tried again: that would repeat what was delivered


def test_what_a_lost_stream_has_told_is_what_the_next_one_resumes_from(server: ScriptedServer) -> None:
    def script(request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        yield STARTED
        for index, token_ids in ((0, [5, 6]), (2, [7]), (0, [8])):
            yield Event(delta=generation_pb2.StreamDelta(candidate_index=index, token_ids=token_ids))
        context.abort(grpc.StatusCode.UNAVAILABLE, "worker lost")

    server.script = script
    with Client(server.address) as client:
        with client.stream("hi", token_ids=True) as stream, pytest.raises(UnavailableError):
            list(stream)
        assert stream.held_token_ids == {0: (5, 6, 8), 2: (7,)}

        server.script = telling(STARTED, FINISHED)
        with client.stream("hi", seed=stream.started.seed, resume_from=stream.held_token_ids) as rest:
            list(rest)

    again = server.requests[-1]
    assert again.generation_config.seed == 7
    assert {each.candidate_index: list(each.token_ids) for each in again.resume_from.candidates} == {
        0: [5, 6, 8],
        2: [7],
    }


@pytest.mark.parametrize("events", [(), (STARTED,), (STARTED, delta("a")), (delta("a"), FINISHED)])
def test_a_stream_that_breaks_the_protocol_is_the_servers_fault(
    events: tuple[Event, ...], server: ScriptedServer, caller: Caller
) -> None:
    server.script = telling(*events)
    with pytest.raises(ServerError) as caught:
        caller.read("hi")
    assert caught.value.reason == "PROTOCOL_ERROR"


def test_a_stream_can_be_read_without_entering_it(server: ScriptedServer) -> None:
    with Client(server.address) as client:
        stream = client.stream("hi")
        assert "".join(each.text for each in stream) == stream.result.text == ", green"


async def test_an_asynchronous_stream_can_be_read_without_entering_it(server: ScriptedServer) -> None:
    async with AsyncClient(server.address) as client:
        stream = client.stream("hi")
        assert "".join([each.text async for each in stream]) == stream.result.text == ", green"


def test_the_end_stays_the_end(server: ScriptedServer) -> None:
    with Client(server.address) as client, client.stream("hi") as stream:
        assert len(list(stream)) == 2
        assert list(stream) == []
        assert stream.result.text == ", green"
    assert stream.result.text == ", green"


async def test_streams_of_one_asynchronous_client_run_together(server: ScriptedServer) -> None:
    together = threading.Barrier(4)

    def script(request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        yield STARTED
        together.wait()
        yield delta(request.text)
        yield FINISHED

    server.script = script

    async def text(client: AsyncClient, prompt: str) -> str:
        async with client.stream(prompt) as stream:
            return "".join([each.text async for each in stream])

    async with AsyncClient(server.address) as client:
        assert await asyncio.gather(*(text(client, prompt) for prompt in "abcd")) == ["a", "b", "c", "d"]


STOPPABLE_SERVER = """
import sys, threading
from tests.client.processes import environment
from tests.client.scripted_server import STARTED, ScriptedServer, delta, hanging, serving
server = ScriptedServer()
server.script = hanging(threading.Event(), STARTED, delta("a"))
with serving(server):
    print(server.address, flush=True)
    sys.stdin.read()
"""


def test_a_server_that_stands_still_is_noticed_long_before_the_deadline() -> None:
    command = [sys.executable, "-c", STOPPABLE_SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        # Only the first ping is brought forward; that it goes unanswered is noticed by the client's own options.
        with (
            Client(address, options={"grpc.keepalive_time_ms": 500}) as client,
            client.stream("hi", timeout=3600) as stream,
        ):
            next(stream)
            process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(UnavailableError):
                    next(stream)
            finally:
                process.send_signal(signal.SIGCONT)
                process.kill()
