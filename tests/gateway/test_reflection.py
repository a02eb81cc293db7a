"""Reflection is there if asked for, and only then."""

import pytest
from grpc import StatusCode, aio
from grpc_reflection.v1alpha import reflection_pb2

from gateway.config import Config
from tests.fakes import FakeWorker
from tests.gateway.serving import Served, serving

METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


async def services(served: Served) -> set[str]:
    method: aio.StreamStreamMultiCallable[bytes, bytes] = served.caller.channel.stream_stream(METHOD)
    call = method()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    await call.done_writing()
    answers = [reflection_pb2.ServerReflectionResponse.FromString(message) async for message in call]
    return {service.name for answer in answers for service in answer.list_services_response.service}


async def test_the_services_are_listed() -> None:
    async with serving(FakeWorker(), config=Config(listen="127.0.0.1:0", reflection=True)) as served:
        assert {
            "textserve.v1.GenerationService",
            "textserve.v1.ModelService",
            "grpc.health.v1.Health",
        } <= await services(served)


async def test_without_the_flag_there_is_no_reflection() -> None:
    async with serving(FakeWorker()) as served:
        with pytest.raises(aio.AioRpcError) as caught:
            await services(served)

        assert caught.value.code() is StatusCode.UNIMPLEMENTED
