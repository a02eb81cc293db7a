"""Whoever leaves, by cancel or deadline, leaves nothing behind."""

import asyncio
import logging
import random
from collections.abc import Awaitable
from decimal import ROUND_CEILING, Context, Decimal

import pytest
from grpc import StatusCode, aio
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.services import why_left
from gateway.config import Config
from gateway.domain.sequence import Status
from tests.fakes import FakeWorker
from tests.gateway.serving import Served, failing, request, serving, settle, until


async def test_a_caller_that_leaves_the_queue_is_never_submitted() -> None:
    async with serving(FakeWorker(rows=1)) as served:
        running = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        queued = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.demand == 1)
        assert served.gateway.dispatcher.queued_count == 1

        queued.cancel()

        await served.worker.until(lambda: served.worker.demand == 0)
        running.cancel()
        await served.nothing_runs()
        assert len(served.worker.submits) == 1


@pytest.mark.parametrize("steps", [0, 3], ids=["in prefill", "decoding"])
async def test_a_caller_that_leaves_frees_its_row(steps: int) -> None:
    async with serving(FakeWorker()) as served:
        call = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step(steps)
        if steps:
            await anext(aiter(call))

        call.cancel()

        await served.nothing_runs()
        assert served.worker.cancelled == {served.worker.submits[0].sequences[0].sequence_id}


async def test_a_unary_caller_that_leaves_frees_its_row() -> None:
    async with serving(FakeWorker()) as served:
        call = served.caller.generation.Generate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)

        call.cancel()

        await served.nothing_runs()


async def test_a_room_that_a_leaver_frees_goes_to_the_next_in_the_queue() -> None:
    async with serving(FakeWorker(rows=1)) as served:
        first = served.caller.generation.StreamGenerate(request("first"))
        await served.worker.until(lambda: served.worker.row_count == 1)
        second = served.caller.generation.StreamGenerate(request("second"))
        await served.worker.until(lambda: served.worker.demand == 1)

        first.cancel()

        await served.worker.until(lambda: len(served.worker.submits) == 2)
        second.cancel()
        await served.nothing_runs()


@pytest.mark.parametrize("rows", [1, 0], ids=["running", "queued"])
async def test_a_deadline_that_passes_frees_what_it_held(rows: int) -> None:
    async with serving(FakeWorker(rows=rows)) as served:
        failure = served.caller.generation.Generate(request(), timeout=2.0)

        with pytest.raises(aio.AioRpcError) as caught:
            await failure

        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        await served.nothing_runs()
        assert len(served.worker.submits) == rows


async def test_the_log_tells_a_caller_whose_deadline_has_passed_from_one_that_has_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gateway.api.services")
    async with serving(FakeWorker(rows=3)) as served:
        # gRPC rounds some of these up, by a hundredth at most: here their deadline has not passed when they leave.
        late = [2.0, 2.001, 2.002, 2.501, 2.503, 3.003]
        calls = [served.caller.generation.Generate(request(), timeout=timeout_s) for timeout_s in late]
        leaving = [served.caller.generation.StreamGenerate(request(), timeout=600.0) for _ in range(4)]
        leaving += [served.caller.generation.StreamGenerate(request()) for _ in range(2)]
        await until(lambda: served.gateway.dispatcher.running_count == 12)
        for stream in leaving:
            stream.cancel()
        for call in calls:
            assert (await failing_code(call)) is StatusCode.DEADLINE_EXCEEDED
        await served.nothing_runs()

    told = [record.getMessage().split()[2] for record in caplog.records]
    assert sorted(told) == ["CANCELLED"] * 6 + ["DEADLINE"] * 6


@given(st.floats(0.001, 1e5), st.floats(-0.02, 0.02))
def test_who_leaves_at_its_deadline_is_late_and_who_leaves_well_before_has_left(timeout_s: float, way_s: float) -> None:
    came_s = float(Decimal(timeout_s).normalize(Context(prec=3, rounding=ROUND_CEILING)))

    assert why_left(came_s - timeout_s + way_s, came_s) is Status.DEADLINE
    assert why_left(0.02 * came_s + 0.1, came_s) is Status.CANCELLED
    assert why_left(None, None) is Status.CANCELLED


async def failing_code(call: Awaitable[object]) -> StatusCode:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


@pytest.mark.parametrize(("rows", "phase"), [(0, "queue"), (1, "prefill")])
async def test_the_servers_own_limit_tells_the_phase(rows: int, phase: str) -> None:
    async with serving(FakeWorker(rows=rows), config=Config(listen="127.0.0.1:0", request_timeout=0.1)) as served:
        unary = await failing(served.caller.generate(request()))
        stream = await failing(served.caller.stream(request()))

        for failure in (unary, stream):
            assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT")
            assert failure.metadata == {"phase": phase}
        await served.nothing_runs()


async def test_1000_streams_cancelled_at_random_moments_leave_nothing_over() -> None:
    chance = random.Random(7)
    async with serving(FakeWorker(rows=64), config=Config(listen="127.0.0.1:0", max_queued=2000)) as served:
        warm = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step()
        await warm.read()
        warm.cancel()
        await served.nothing_runs()
        await settle()
        tasks_before = len(asyncio.all_tasks())
        stepping = asyncio.create_task(_step(served))

        await asyncio.gather(*(_call_and_leave(served, chance) for _ in range(1000)))
        await served.nothing_runs()

        stepping.cancel()
        await asyncio.wait([stepping])
        assert served.worker.demand == 0
        # gRPC's own tasks end some turns after their calls; any of the gateway's that had not ended would never.
        await until(lambda: len(asyncio.all_tasks()) <= tasks_before)


async def _step(served: Served) -> None:
    while True:
        served.worker.step()
        await settle()


async def _call_and_leave(served: Served, chance: random.Random) -> None:
    call = served.caller.generation.StreamGenerate(request(max_new_tokens=200))
    for _ in range(chance.randrange(4)):
        if await call.read() is aio.EOF:
            return
    for _ in range(chance.randrange(10)):
        await asyncio.sleep(0)
    call.cancel()
