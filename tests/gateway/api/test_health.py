"""Health v1: the process lives, the services can answer while there is a worker."""

import asyncio
from typing import Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fakes import FakeWorker
from tests.gateway.serving import serving

SERVICE = "textserve.v1.GenerationService"


def asking(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def name(answer: Any) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_health_follows_the_workers_and_ends_with_not_serving() -> None:
    async with serving(FakeWorker()) as served:
        health: Any = health_pb2_grpc.HealthStub(served.caller.channel)
        one, other = (aiter(health.Watch(asking(SERVICE))) for _ in range(2))
        assert name(await anext(one)) == name(await anext(other)) == "SERVING"
        assert name(await health.Check(asking(""))) == name(await health.Check(asking(SERVICE))) == "SERVING"

        await served.worker.die()
        served.pool.down(0)
        assert name(await anext(one)) == name(await anext(other)) == "NOT_SERVING"
        assert name(await health.Check(asking(""))) == "SERVING"
        await served.worker.start()
        served.pool.up(0)
        assert name(await anext(one)) == name(await anext(other)) == "SERVING"

        stopping = asyncio.create_task(served.gateway.stop(0))
        for watch in (one, other):
            assert [name(answer) async for answer in watch] == ["NOT_SERVING"]
        await stopping


async def test_health_is_not_serving_while_the_only_engine_hangs() -> None:
    async with serving(FakeWorker()) as served:
        health: Any = health_pb2_grpc.HealthStub(served.caller.channel)
        watch = aiter(health.Watch(asking(SERVICE)))
        assert name(await anext(watch)) == "SERVING"

        served.worker.beat(limit_s=3, elapsed_s=4)
        assert name(await anext(watch)) == "NOT_SERVING"
        served.worker.beat()
        assert name(await anext(watch)) == "SERVING"


async def test_the_services_are_not_serving_before_a_worker_is_ready() -> None:
    worker = FakeWorker()
    worker.serialized += b" "
    async with serving(worker, ready=False) as served:
        health: Any = health_pb2_grpc.HealthStub(served.caller.channel)

        assert name(await health.Check(asking(""))) == "SERVING"
        assert name(await health.Check(asking(SERVICE))) == "NOT_SERVING"


async def test_a_watch_that_leaves_does_not_take_others_along() -> None:
    async with serving(FakeWorker()) as served:
        health: Any = health_pb2_grpc.HealthStub(served.caller.channel)
        leaving = health.Watch(asking(SERVICE))
        staying = aiter(health.Watch(asking(SERVICE)))
        await anext(aiter(leaving))
        await anext(staying)
        leaving.cancel()

        await served.worker.die()
        served.pool.down(0)

        assert name(await anext(staying)) == "NOT_SERVING"


async def test_an_unknown_service_is_not_found_but_can_be_watched() -> None:
    async with serving(FakeWorker()) as served:
        health: Any = health_pb2_grpc.HealthStub(served.caller.channel)

        assert name(await anext(aiter(health.Watch(asking("nope"))))) == "SERVICE_UNKNOWN"
        with pytest.raises(aio.AioRpcError) as caught:
            await health.Check(asking("nope"))
        assert caught.value.code() is StatusCode.NOT_FOUND
