"""Shutting down: not serving first, refusals with details, and what runs comes to its end."""

import asyncio

import pytest
from grpc import StatusCode

from gateway.process import serve
from gateway.server import Gateway, StartupError
from gateway.workers.pool.worker_pool import PoolFailed
from tests.fakes import FakeWorker
from tests.gateway.serving import LOCAL, FakePool, failing, failure_of, request, serving, text_of, to_the_end


async def test_a_graceful_stop_finishes_what_runs_and_refuses_what_comes() -> None:
    async with serving(FakeWorker(rows=1)) as served:
        running = served.caller.generation.StreamGenerate(request(max_new_tokens=3))
        await served.worker.until(lambda: served.worker.row_count == 1)

        stopping = asyncio.create_task(served.gateway.stop(60))
        failure = await failing(served.caller.generate(request()))
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "DRAINING")

        served.worker.step(3)
        assert text_of([message async for message in running]) == "aba"
        await stopping
        assert served.pool.stopped_with == [60]


async def test_what_runs_longer_than_the_grace_is_told_why() -> None:
    async with serving(FakeWorker()) as served:
        running = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step()

        stopping = asyncio.create_task(served.gateway.stop(0.05))

        received, error = await to_the_end(running)
        assert failure_of(error).reason == "DRAINING"
        assert text_of(received) == "a"
        await stopping


async def test_a_second_stop_cuts_the_first_short() -> None:
    async with serving(FakeWorker()) as served:
        running = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step()
        graceful = asyncio.create_task(served.gateway.stop(3600))
        await anext(aiter(running))

        await served.gateway.stop(0)
        await graceful

        _, error = await to_the_end(running)
        assert failure_of(error).reason == "DRAINING"


async def test_nothing_is_left_after_a_stop() -> None:
    tasks_before = asyncio.all_tasks()
    gateway = Gateway(LOCAL, FakePool(FakeWorker(), FakeWorker()))
    await gateway.start()
    await gateway.ready.wait()

    await gateway.stop(0)

    left = {task for task in asyncio.all_tasks() - tasks_before if "gateway" in repr(task.get_coro())}
    assert not left


async def test_a_pool_that_can_never_start_ends_the_gateway_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool(FakeWorker())
    monkeypatch.setattr("gateway.process.build_pool", lambda _config: pool)
    pool.failed.set_exception(PoolFailed("no such model"))

    with pytest.raises(StartupError, match="no such model"):
        await serve(LOCAL)

    assert pool.stopped_with == [0]
