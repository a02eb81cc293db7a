"""What a newer caller asks for is never dropped in silence: fields that are not known are refused by their path."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from grpc import StatusCode, aio

from tests.fakes import FakeWorker
from tests.gateway.serving import LOCAL, Served, failing, request, serving
from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2

UNKNOWN = b"\xba\x3e\x02hi"
"""Field 999, a text."""


def with_unknown(message: Message) -> Any:
    message.MergeFromString(UNKNOWN)
    return message


def nested() -> dict[str, pb.GenerateRequest]:
    def turn() -> pb.ChatMessage:
        return pb.ChatMessage(role="user", text="ab")

    return {
        "999": with_unknown(request("ab")),
        "generation_config.999": pb.GenerateRequest(
            text="ab", generation_config=with_unknown(pb.GenerationConfig(top_k=5))
        ),
        "chat.messages[1].999": pb.GenerateRequest(chat=pb.ChatPrompt(messages=[turn(), with_unknown(turn())])),
        "generation_config.bad_words_ids[0].999": pb.GenerateRequest(
            text="ab", generation_config=pb.GenerationConfig(bad_words_ids=[with_unknown(pb.TokenSequence(ids=[1]))])
        ),
        "chat.template_arguments.999": pb.GenerateRequest(
            chat=pb.ChatPrompt(messages=[turn()], template_arguments=with_unknown(struct_pb2.Struct()))
        ),
    }


async def raw(served: Served, method: str, data: bytes) -> None:
    path = f"/textserve.v1.{method}"
    if method.endswith("StreamGenerate"):
        stream: aio.UnaryStreamMultiCallable[bytes, bytes] = served.caller.channel.unary_stream(path)
        async for _ in stream(data):
            pass
    else:
        unary: aio.UnaryUnaryMultiCallable[bytes, bytes] = served.caller.channel.unary_unary(path)
        await unary(data)


@pytest.mark.parametrize("method", ["GenerationService/Generate", "GenerationService/StreamGenerate"])
async def test_a_field_that_is_not_known_is_refused_by_its_path_at_any_depth(method: str) -> None:
    async with serving(FakeWorker(runs_freely=True)) as served:
        for path, message in nested().items():
            failure = await failing(raw(served, method, message.SerializeToString()))
            assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "UNKNOWN_FIELD")
            assert failure.fields == {path}
        assert served.worker.submits == []


async def test_every_service_refuses_them() -> None:
    message = with_unknown(model_pb2.ListModelsRequest())
    async with serving(FakeWorker()) as served:
        failure = await failing(raw(served, "ModelService/ListModels", message.SerializeToString()))
    assert failure.reason == "UNKNOWN_FIELD"


async def test_many_of_them_are_named_up_to_what_a_status_holds() -> None:
    message = request("ab")
    for number in range(200, 400):
        message.MergeFromString(bytes([number << 3 & 0x7F | 0x80, number >> 4, 1]))
    async with serving(FakeWorker()) as served:
        failure = await failing(raw(served, "GenerationService/Generate", message.SerializeToString()))
    assert len(failure.fields) == 20


async def test_they_may_be_allowed() -> None:
    async with serving(FakeWorker(runs_freely=True), config=replace(LOCAL, allow_unknown_fields=True)) as served:
        await raw(served, "GenerationService/Generate", nested()["generation_config.999"].SerializeToString())
        assert len(served.worker.submits) == 1
