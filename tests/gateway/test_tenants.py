"""Tenants and priorities: told by the metadata of calls, if the operator trusts it."""

from grpc import StatusCode, aio

from gateway.config import Config, Tenant
from gateway.domain.tenancy import Priority
from tests.fakes import FakeWorker
from tests.gateway.serving import Served, failing, request, serving
from textserve.v1 import generation_pb2 as pb

TRUSTING = Config(listen="127.0.0.1:0", trust_tenant_metadata=True, max_tenant_queued=2)
UNTRUSTING = Config(listen="127.0.0.1:0", max_tenant_queued=2)
Call = aio.UnaryStreamCall[pb.GenerateRequest, pb.StreamGenerateResponse]


def of_tenant(tenant: str, priority: str = "default") -> tuple[tuple[str, str], ...]:
    return (("textserve-tenant", tenant), ("textserve-priority", priority))


async def flooded(served: Served, tenant: str) -> list[Call]:
    """One call of a tenant that runs, and two that wait."""
    calls = [served.caller.generation.StreamGenerate(request(), metadata=of_tenant(tenant)) for _ in range(3)]
    await served.worker.until(lambda: served.worker.demand == 2)
    return calls


async def test_a_tenant_beyond_its_quota_is_refused_and_another_is_not() -> None:
    async with serving(FakeWorker(rows=1), config=TRUSTING) as served:
        calls = await flooded(served, "flood")

        failure = await failing(served.caller.generation.Generate(request(), metadata=of_tenant("flood")))
        other = served.caller.generation.StreamGenerate(request(), metadata=of_tenant("other"))

        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TENANT_QUOTA")
        assert failure.metadata == {"limit": "2", "tenant": "flood"}
        await served.worker.until(lambda: served.worker.demand == 3)
        for call in (*calls, other):
            call.cancel()
        await served.nothing_runs()


async def test_metadata_that_is_not_trusted_makes_no_tenants() -> None:
    async with serving(FakeWorker(rows=1), config=UNTRUSTING) as served:
        calls = await flooded(served, "flood")
        calls.append(served.caller.generation.StreamGenerate(request(), metadata=of_tenant("flood", "no such")))

        await served.worker.until(lambda: served.worker.demand == 3)
        for call in calls:
            call.cancel()
        await served.nothing_runs()


async def test_what_is_urgent_is_served_before_what_came_earlier() -> None:
    async with serving(FakeWorker(rows=1), config=TRUSTING) as served:
        running = served.caller.generation.StreamGenerate(request(max_new_tokens=1))
        await served.worker.until(lambda: served.worker.row_count == 1)
        batch = served.caller.generation.StreamGenerate(request("cc"), metadata=of_tenant("a", "batch"))
        await served.worker.until(lambda: served.worker.demand == 1)
        urgent = served.caller.generation.StreamGenerate(request("dd"), metadata=of_tenant("a"))
        await served.worker.until(lambda: served.worker.demand == 2)

        served.worker.step()
        await served.worker.until(lambda: len(served.worker.submits) == 2)

        first, second = (submit.prompt_token_ids for submit in served.worker.submits)
        assert first != second
        assert [message async for message in running][-1].HasField("finished")
        served.worker.step()
        assert (await anext(aiter(urgent))).HasField("started")
        urgent.cancel()
        await served.worker.until(lambda: len(served.worker.submits) == 3)
        batch.cancel()
        await served.nothing_runs()


async def test_a_priority_that_does_not_exist_is_an_invalid_argument() -> None:
    async with serving(FakeWorker(), config=TRUSTING) as served:
        failure = await failing(served.caller.generation.Generate(request(), metadata=of_tenant("a", "urgent")))

    assert failure.code is StatusCode.INVALID_ARGUMENT
    assert failure.fields == {"textserve-priority"}


def test_the_configuration_says_what_tenants_are_entitled_to() -> None:
    config = Config(
        trust_tenant_metadata=True, tenant=(Tenant("a", 3.0), Tenant("*", 0.5, best_priority=Priority.BATCH))
    )

    assert (config.tenants.weight("a"), config.tenants.weight("b")) == (3.0, 0.5)
    assert config.tenants.clamp("a", Priority.INTERACTIVE) is Priority.INTERACTIVE
    assert config.tenants.clamp("b", Priority.INTERACTIVE) is Priority.BATCH


def test_where_tenants_are_not_told_apart_the_bounds_of_one_are_those_of_all() -> None:
    assert Config().queue_limits.max_tenant_queued == Config().max_queued
    assert Config().queue_limits.max_tenant_queued_tokens == Config().max_queued_tokens
    trusting = Config(trust_tenant_metadata=True)
    assert trusting.queue_limits.max_tenant_queued == trusting.max_tenant_queued < trusting.max_queued
    assert (
        trusting.queue_limits.max_tenant_queued_tokens == trusting.max_tenant_queued_tokens < trusting.max_queued_tokens
    )
