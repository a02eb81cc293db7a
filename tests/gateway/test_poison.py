"""A request that ends its workers is found out, and neither its companions nor chance losses are taken for it."""

import asyncio

from grpc import StatusCode

from tests.fakes import FakeWorker, ids
from tests.gateway.losing import asked, collected, kill, prompts_on, restart, running, runs, told, undisturbed
from tests.gateway.serving import Served, failure_of, serving, to_the_end, until


async def test_a_request_that_ends_its_worker_alone_is_poison_and_its_companions_complete() -> None:
    innocent = [asked("abc", 3), asked("de", 3)]
    async with serving(FakeWorker()) as served:
        poison, *companions = await running(served, asked("poison"), *innocent)
        for _ in range(2):
            await kill(served)
            await restart(served)
            await served.worker.until(lambda: served.worker.row_count > 0)
        assert prompts_on(served.worker) == [ids("poison")]
        late = served.caller.generation.StreamGenerate(asked("fgh", 3))
        await until(lambda: served.gateway.dispatcher.queued_count == 3)

        await kill(served)
        await restart(served)

        failure = failure_of((await to_the_end(poison))[1])
        assert (failure.code, failure.reason) == (StatusCode.INTERNAL, "POISON_REQUEST")
        assert ("grpc-retry-pushback-ms", "-1") in tuple(await poison.trailing_metadata())
        ended = asyncio.gather(*(collected([stream]) for stream in (late, *companions)))
        while not ended.done():
            await served.worker.until(lambda: ended.done() or served.worker.row_count > 0)
            assert served.worker.row_count <= 1
            served.worker.step()
            await until(lambda: ended.done() or served.worker.row_count > 0)
        received = [told(messages) for (messages,) in ended.result()]
        assert received == await undisturbed(asked("fgh", 3), *innocent)
        await served.nothing_runs()


async def test_a_suspect_leaves_the_other_worker_to_everybody_else() -> None:
    async with serving(FakeWorker(), FakeWorker()) as served:
        (suspect,) = await running(served, asked("suspect"))
        await kill(served, 0)
        await runs(served.workers[1], 1)
        await restart(served, 0)
        await until(lambda: served.gateway.dispatcher.worker_count == 2)
        await kill(served, 1)
        await runs(served.workers[0], 1)
        await restart(served, 1)
        await until(lambda: served.gateway.dispatcher.worker_count == 2)

        others = [served.caller.generation.StreamGenerate(asked("abc", 1)) for _ in range(5)]

        await runs(served.workers[1], 5)
        assert prompts_on(served.workers[0]) == [ids("suspect")]
        for worker in served.workers:
            worker.step(9)
        assert [told(messages) for messages in await collected([suspect])] == await undisturbed(asked("suspect"))
        await collected(others)
        await served.nothing_runs()


async def test_a_connection_that_breaks_time_and_again_makes_no_suspect_while_the_process_lives() -> None:
    async with serving(FakeWorker()) as served:
        streams = await running(served, asked("abc"), asked("de"))
        for count in range(3):
            served.worker.step()
            await until(lambda n=count + 1: _counts(served) == {n})  # type: ignore[misc]
            await served.worker.die()
            await served.worker.start()
            await runs(served.worker, 2)

        served.worker.step(6)

        received = await collected(streams)
        assert [told(messages) for messages in received] == await undisturbed(asked("abc"), asked("de"))
        assert received[0][-1].finished.receipt.attempt_count == 4


async def test_a_worker_that_is_drained_and_ended_time_and_again_makes_no_suspect() -> None:
    async with serving(FakeWorker()) as served:
        streams = await running(served, asked("abc", 3), asked("de", 3))
        for _ in range(3):
            served.worker.drain()
            await until(lambda: served.gateway.dispatcher.worker_count == 0)
            await kill(served)
            await restart(served)
            await runs(served.worker, 2)

        served.worker.step(3)

        assert [told(messages) for messages in await collected(streams)] == await undisturbed(
            asked("abc", 3), asked("de", 3)
        )


def _counts(served: Served) -> set[int]:
    return {one.output_token_count for one in served.gateway.dispatcher._running}
