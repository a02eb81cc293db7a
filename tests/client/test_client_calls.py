"""What holds for single calls, with the blocking client and with the asynchronous one."""

import threading

import grpc
import pytest

from client import (
    DEFAULT_TIMEOUT,
    AsyncClient,
    Client,
    DeadlineExceededError,
    Estimate,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from client._wire.convert import generation_from
from tests.client.callers import Caller
from tests.client.conftest import Connect
from tests.client.scripted_server import (
    ANSWER,
    STARTED,
    Request,
    Response,
    ScriptedServer,
    answering,
    delta,
    hanging,
    never_answering,
)
from textserve.v1 import generation_pb2


def test_generate_returns_the_whole_answer(server: ScriptedServer, caller: Caller) -> None:
    assert caller.generate("A list of colors: red, blue", temperature=0) == generation_from(ANSWER)
    assert server.requests[0].text == "A list of colors: red, blue"
    assert server.requests[0].generation_config.HasField("temperature")


def test_models_are_listed(caller: Caller) -> None:
    assert [(each.name, each.context_length) for each in caller.models()] == [("tutor", 512)]


def test_all_pages_of_models_are_read(server: ScriptedServer, caller: Caller) -> None:
    server.page_size = 1
    server.models.models.add(name="other")
    assert [each.name for each in caller.models()] == ["tutor", "other"]
    assert server.calls == ["ModelService/ListModels"] * 2


def test_a_model_is_found_by_its_name(caller: Caller) -> None:
    assert caller.model("tutor").context_length == 512
    with pytest.raises(NotFoundError):
        caller.model("other")


def test_what_a_call_would_be_is_told(server: ScriptedServer, caller: Caller) -> None:
    assert caller.estimate("hi", max_new_tokens=5) == Estimate(2, 5, 1.5, None, 0.0)
    assert server.requests == []


def test_prompts_are_tokenized_and_tokens_are_text(caller: Caller) -> None:
    tokenized = caller.tokenize("hi", pieces=True, rendered_prompt=True)
    assert (tokenized.token_ids, len(tokenized), tokenized.rendered_prompt) == ((104, 105), 2, "hi")
    assert [piece.piece for piece in tokenized.pieces] == [b"h", b"i"]
    assert caller.tokenize([{"role": "user", "content": "a"}]).token_ids == (97,)
    assert caller.detokenize([104, 32]) == "h"
    assert caller.detokenize([104, 32], skip_special_tokens=False) == "h "
    with pytest.raises(TypeError, match="tokens already"):
        caller.tokenize([1, 2])
    with pytest.raises(TypeError, match="'top_k' is not an option"):
        caller.tokenize("hi", top_k=5)


def test_metadata_of_the_client_goes_with_every_call(server: ScriptedServer, connect: Connect) -> None:
    caller = connect(metadata=[("tenant", "blue"), ("trace-bin", b"\x00\xff")])
    caller.generate("hi")
    caller.read("hi")
    caller.models()
    assert [(each["tenant"], each["trace-bin"]) for each in server.metadata] == [("blue", b"\x00\xff")] * 3


def test_tenant_and_priority_go_with_every_call_beside_other_metadata(server: ScriptedServer, connect: Connect) -> None:
    caller = connect(metadata=[("trace", "1")], tenant="acme", priority="interactive")
    caller.generate("hi")
    caller.read("hi")
    caller.models()
    sent = [(each["trace"], each["textserve-tenant"], each["textserve-priority"]) for each in server.metadata]
    assert sent == [("1", "acme", "interactive")] * 3


def test_a_client_that_names_neither_sends_neither(server: ScriptedServer, connect: Connect) -> None:
    connect().generate("hi")
    assert not {"textserve-tenant", "textserve-priority"} & server.metadata[0].keys()


@pytest.mark.parametrize("options", [{"tenant": "caf\u00e9"}, {"tenant": "a\nb"}, {"priority": "urgent"}])
def test_what_no_call_can_name_is_refused(options: dict[str, str], connect: Connect) -> None:
    with pytest.raises(ValueError, match="must be"):
        connect(**options)


def remaining(server: ScriptedServer) -> list[float]:
    """Makes the server note the seconds that its callers allow."""
    seconds: list[float] = []

    def answer(request: Request, context: grpc.ServicerContext) -> Response:
        seconds.append(context.time_remaining())
        return ANSWER

    server.answer = answer
    return seconds


def test_every_call_has_a_deadline(server: ScriptedServer, connect: Connect) -> None:
    seconds = remaining(server)
    connect().generate("hi")
    connect(timeout=500).generate("hi")
    connect(timeout=500).generate("hi", timeout=None)
    connect(timeout=500).generate("hi", timeout=5_000)
    assert seconds == pytest.approx([DEFAULT_TIMEOUT, 500, 500, 5_000], rel=0.2)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e10])
def test_a_timeout_is_finite_and_above_zero(timeout: float, caller: Caller, connect: Connect) -> None:
    with pytest.raises(ValueError, match="timeout"):
        connect(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        caller.generate("hi", timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        caller.read("hi", timeout=timeout)


def test_a_call_that_takes_too_long_ends_here_and_there(server: ScriptedServer, caller: Caller) -> None:
    left = threading.Event()
    server.answer = never_answering(left)
    with pytest.raises(DeadlineExceededError):
        caller.generate("hi", timeout=0.2)
    assert left.wait()


def test_a_stream_that_takes_too_long_ends_here_and_there(server: ScriptedServer, caller: Caller) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("a"))
    with pytest.raises(DeadlineExceededError):
        caller.read("hi", timeout=0.2)
    assert left.wait()


def test_answers_above_grpcs_default_limit_arrive(server: ScriptedServer, caller: Caller) -> None:
    text = "x" * 5_000_000
    server.answer = answering(Response(candidates=[generation_pb2.Candidate(text=text)]))
    assert caller.generate("hi").text == text


def test_options_of_the_channel_can_be_changed(server: ScriptedServer, connect: Connect) -> None:
    server.answer = answering(Response(candidates=[generation_pb2.Candidate(text="x" * 2_000)]))
    with pytest.raises(ResourceExhaustedError):
        connect(options={"grpc.max_receive_message_length": 1_000}).generate("hi")


def test_credentials_make_the_connection_a_tls_one(server: ScriptedServer) -> None:
    with (
        Client(server.address, credentials=grpc.ssl_channel_credentials()) as client,
        pytest.raises(UnavailableError, match=r"(?i)ssl|tls|handshake"),
    ):
        client.generate("hi", timeout=5)
    assert not server.calls


async def test_credentials_make_the_asynchronous_connection_a_tls_one(server: ScriptedServer) -> None:
    async with AsyncClient(server.address, credentials=grpc.ssl_channel_credentials()) as client:
        with pytest.raises(UnavailableError, match=r"(?i)ssl|tls|handshake"):
            await client.generate("hi", timeout=5)
    assert not server.calls


def test_nobody_at_the_address_is_unavailable_and_has_no_reason() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(UnavailableError) as caught:
        client.models()
    assert caught.value.reason == ""


def test_closing_twice_is_closing_once(server: ScriptedServer) -> None:
    with Client(server.address) as client:
        client.generate("hi")
        client.close()


async def test_closing_asynchronously_twice_is_closing_once(server: ScriptedServer) -> None:
    async with AsyncClient(server.address) as client:
        await client.generate("hi")
        await client.close()


def test_threads_share_a_client(server: ScriptedServer) -> None:
    together = threading.Barrier(4)

    def answer(request: Request, context: grpc.ServicerContext) -> Response:
        together.wait()
        return Response(candidates=[generation_pb2.Candidate(text=request.text)])

    server.answer = answer
    texts: list[str] = []
    with Client(server.address) as client:
        threads = [
            threading.Thread(target=lambda name=name: texts.append(client.generate(name).text)) for name in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(texts) == ["a", "b", "c", "d"]
