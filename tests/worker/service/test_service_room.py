"""The worker's room: rows that fall free, and its division between gateways that come, want and leave."""

import math

import pytest

from tests.worker.serving import ROOM, ROWS, Gateway, serving, submission, until
from worker.domain.sequence import Status

# gRPC keeps its poller for the process: one event loop for all tests here keeps it from meeting a closed one.
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_cancel_frees_the_row_within_one_step() -> None:
    async with serving(max_rows=1, held=True) as worker:
        gateway = await worker.gateway()
        await gateway.submit(1, [5], 60)
        await gateway.submit(2, [6], 4)
        worker.gate.allow(3)
        await gateway.until(lambda: len(gateway.tokens.get(1, [])) == 3)
        await worker.held()
        await gateway.cancel(1)
        await until(lambda: worker.held_sequences == {2})
        worker.gate.allow(1)
        await worker.held()
        (running,) = worker.engine.scheduler.running
        assert running.sequence_id == 2, "the step after the one under way reads the next prompt"
        worker.gate.allow(math.inf)
        await gateway.until_ended(2)
        gateway.check(2, [6], 4)
        assert len(gateway.tokens[1]) == 3
        assert 1 not in gateway.finishes


async def test_cancelling_unknown_and_ended_ids_is_ignored() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        await gateway.submit(1, [5], 2)
        await gateway.until_ended(1)
        await gateway.cancel(1, 99)
        await gateway.submit(2, [6], 3)
        await gateway.until_ended(2)
        gateway.check(2, [6], 3)


async def test_a_gateway_alone_may_submit_for_all_rows_and_a_small_prefetch() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        assert gateway.limit == ROOM == ROWS + 1


async def test_the_limits_of_two_gateways_sum_to_the_room_and_follow_demand() -> None:
    async with serving() as worker:
        first, second = await worker.gateways(2)
        await first.until(lambda: first.limit + second.limit == ROOM)
        assert min(first.limit, second.limit) == ROOM // 2
        await first.demand(100)
        await first.until(lambda: first.limit == ROOM - 1)
        await second.until(lambda: second.limit == 1)
        await second.demand(100)
        await second.until(lambda: second.limit == ROOM // 2)
        await first.until(lambda: first.limit == ROOM - ROOM // 2)


async def test_room_comes_back_when_a_gateway_leaves() -> None:
    async with serving() as worker:
        first, second = await worker.gateways(2)
        await first.until(lambda: first.limit < ROOM)
        second.call.cancel()
        await first.until(lambda: first.limit == ROOM)


async def test_room_that_ended_sequences_leave_goes_to_who_wants_it_without_being_asked_again() -> None:
    async with serving(held=True) as worker:
        first, second = await worker.gateways(2)
        for number in range(ROOM - 1):
            await first.submit(number, [5], 2)
        await until(lambda: len(worker.held_sequences) == ROOM - 1)
        await second.demand(100)
        await second.until(lambda: second.limit == ROOM // 2)
        worker.gate.allow(math.inf)
        await first.until_ended(*range(ROOM - 1))
        await second.until(lambda: second.limit == ROOM - 1)


async def test_a_submission_above_the_limit_waits_and_is_not_refused() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        numbers = range(3 * ROOM)
        for number in numbers:
            await gateway.submit(number, [number + 3], 3)
        await gateway.until_ended(*numbers)
        for number in numbers:
            gateway.check(number, [number + 3], 3)


async def test_what_waits_of_a_higher_priority_passes_what_waits_of_another_gateway() -> None:
    async with serving(max_rows=1, held=True) as worker:
        batch, interactive = await worker.gateways(2)
        for number in range(3):
            await batch.submit(number, [5], 2)
        await until(lambda: len(worker.held_sequences) == 3)
        await worker.held()
        urgent = submission(9, [6], 2)
        urgent.submit.priority = 2
        await interactive.call.write(urgent)
        await until(lambda: len(worker.held_sequences) == 4)
        worker.gate.allow(2)
        await batch.until_ended(0)
        await worker.held()
        (running,) = worker.engine.scheduler.running
        assert running.sequence_id == 9


@pytest.mark.parametrize("how", ["cancel", "half close", "channel"])
async def test_a_gateway_that_leaves_has_its_sequences_dropped_and_its_neighbour_notices_nothing(how: str) -> None:
    async with serving(held=True) as worker:
        leaving, staying = await worker.gateways(2)
        for number in range(3):
            await leaving.submit(number, [5], 60)
        await staying.submit(9, [6, 7], 8)
        await until(lambda: len(worker.held_sequences) == 4)
        worker.gate.allow(2)
        of_both = [s for connection in worker.service._connections.values() for s in connection.sequences.values()]
        await leave(leaving, how)
        await until(lambda: len(worker.service._connections) == 1)
        worker.gate.allow(math.inf)
        await staying.until_ended(9)
        staying.check(9, [6, 7], 8)
        await until(lambda: not worker.engine.scheduler.has_work)
        assert [s.sequence.status for s in of_both] == [Status.CANCELLED] * 3 + [Status.FINISHED_LENGTH]


async def leave(gateway: Gateway, how: str) -> None:
    if how == "cancel":
        gateway.call.cancel()
    elif how == "half close":
        await gateway.call.done_writing()
    else:
        await gateway.channel.close(grace=None)


async def test_random_submits_cancels_and_departures_leave_nothing_behind() -> None:
    async with serving() as worker:
        for generation in range(4):
            gateways = await worker.gateways(3)
            for number in range(30):
                for gateway in gateways:
                    await gateway.submit(number, [number + 3], 3 + number % 9)
                if number % 3 == 0:
                    await gateways[number % 2].cancel(number, number - 1)
            await gateways[2].until_ended(*range(30 if generation % 2 else 5))
            for gateway in gateways:
                gateway.call.cancel()
        await until(lambda: not worker.service._connections)
        await until(lambda: not worker.engine.scheduler.has_work)
