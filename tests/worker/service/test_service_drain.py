"""A worker that goes down: it says so, finishes what runs, and leaves nobody waiting."""

import asyncio
import math
from collections.abc import Iterable

import grpc
import pytest

from tests.worker.serving import LIMIT_S, Gateway, serving, until

# gRPC keeps its poller for the process: one event loop for all tests here keeps it from meeting a closed one.
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def finish_drain(drain: asyncio.Task[None]) -> None:
    async with asyncio.timeout(LIMIT_S):
        await drain


async def test_a_draining_worker_says_so_grants_nothing_finishes_what_runs_and_ends_the_stream() -> None:
    async with serving(held=True) as worker:
        gateway = await worker.gateway()
        await gateway.submit(1, [5, 6], 9)
        await worker.held()
        drain = asyncio.create_task(worker.service.drain())
        await gateway.until(lambda: gateway.is_told_to_drain and gateway.limit == 0)
        assert not drain.done()
        worker.gate.allow(math.inf)
        await gateway.until_end_of_stream()
        gateway.check(1, [5, 6], 9)
        await finish_drain(drain)
        assert await gateway.call.code() == grpc.StatusCode.OK


async def test_an_idle_worker_drains_at_once() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        await finish_drain(asyncio.create_task(worker.service.drain()))
        await gateway.until_end_of_stream()
        assert gateway.is_told_to_drain


async def test_a_gateway_that_comes_while_the_worker_drains_is_told_and_granted_nothing() -> None:
    async with serving(held=True) as worker:
        gateway = await worker.gateway()
        await gateway.submit(1, [5, 6], 4)
        await worker.held()
        drain = asyncio.create_task(worker.service.drain())
        late = await worker.new_gateway()
        await late.until(lambda: late.is_told_to_drain)
        assert late.limit == 0
        worker.gate.allow(math.inf)
        await late.until_end_of_stream()
        await gateway.until_end_of_stream()
        gateway.check(1, [5, 6], 4)
        await finish_drain(drain)


async def test_a_drain_ends_when_all_that_ran_was_cancelled() -> None:
    async with serving(held=True) as worker:
        gateway, leaving = await worker.gateways(2)
        for each in (gateway, leaving):
            await each.submit(1, [5, 6], 40)
        await worker.held()
        drain = asyncio.create_task(worker.service.drain())
        await gateway.cancel(1)
        leaving.call.cancel()
        await finish_drain(drain)


async def test_submissions_that_cross_the_word_of_the_drain_are_run_to_their_end() -> None:
    async with serving(held=True) as worker:
        gateway = await worker.gateway()
        await gateway.submit(0, [3], 20)
        await worker.held()
        drain = asyncio.create_task(worker.service.drain())
        for number in range(1, 20):
            await gateway.submit(number, [number + 3], 5)
        await until(lambda: len(worker.held_sequences) == 20)
        worker.gate.allow(math.inf)
        await gateway.until_end_of_stream()
        for number in range(20):
            gateway.check(number, [number + 3], 5 if number else 20)
        await finish_drain(drain)


async def test_submissions_that_come_too_late_are_cut_off_by_the_end_of_the_stream_and_leave_nothing() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        reading = asyncio.create_task(gateway.until_end_of_stream())
        writing = asyncio.create_task(write_while_open(gateway, range(60)))
        await until(lambda: gateway.tokens)
        await finish_drain(asyncio.create_task(worker.service.drain()))
        await reading
        await writing
        for number in gateway.finishes:
            gateway.check(number, [number + 3], 2)
        await until(lambda: not worker.service._connections)
        await until(lambda: not worker.engine.scheduler.has_work)


async def write_while_open(gateway: Gateway, numbers: Iterable[int]) -> None:
    for number in numbers:
        try:
            await gateway.submit(number, [number + 3], 2)
        except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError):
            return
