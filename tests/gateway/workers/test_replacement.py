"""A worker that hangs is not merely avoided: its pool is asked to replace it, and nothing of it counts twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.config import Config
from tests.fakes import FakeWorker
from tests.gateway.losing import asked, collected, kill, restart, running, runs, told, undisturbed
from tests.gateway.serving import LOCAL, Served, request, serving, until
from textserve.internal.v1 import worker_pb2


@asynccontextmanager
async def supervised(*workers: FakeWorker, config: Config = LOCAL, restarts: bool = True) -> AsyncIterator[Served]:
    """Workers whose pool ends those that hang."""
    async with serving(*workers, config=config) as served:
        served.pool.restarts = restarts
        yield served


HANGS: dict[str, Callable[[Served], None]] = {
    "silent": lambda served: served.clock.advance(4.0),
    "engine step": lambda served: served.worker.beat(limit_s=3, elapsed_s=4),
}


@pytest.mark.parametrize("why", HANGS)
async def test_a_worker_that_hangs_is_replaced_and_its_streams_go_on(why: str) -> None:
    async with supervised(FakeWorker()) as served:
        (stream,) = await running(served, asked("abc"))
        served.worker.step(4)
        await until(lambda: _token_counts(served) == [4])

        HANGS[why](served)
        await until(lambda: len(served.pool.asked_to_replace) == 1)
        ((name, said),) = served.pool.asked_to_replace
        assert name == "worker-0"
        assert why in said
        await kill(served)
        await restart(served)
        await runs(served.worker, 1)
        served.worker.step(5)

        assert [told(messages) for messages in await collected([stream])] == await undisturbed(asked("abc"))
        assert len(served.pool.asked_to_replace) == 1


@pytest.mark.parametrize("why", HANGS)
async def test_a_hang_and_the_end_that_it_leads_to_are_one_death(why: str) -> None:
    async with supervised(FakeWorker()) as served:
        streams = await running(served, asked("abc"), asked("de"))
        served.worker.step()
        await until(lambda: _token_counts(served) == [1, 1])  # nothing is on its way any more

        HANGS[why](served)
        await until(lambda: len(served.pool.asked_to_replace) == 1)
        await kill(served)
        await restart(served)
        await runs(served.worker, 2)

        assert [one.deaths for one in served.gateway.dispatcher._running] == [1, 1]
        served.worker.step(9)
        await collected(streams)


async def test_nothing_is_said_to_a_worker_that_is_to_be_ended() -> None:
    async with supervised(FakeWorker()) as served:
        described = _calls(served.worker)
        served.worker.beat(limit_s=3, elapsed_s=4)
        await until(lambda: len(served.pool.asked_to_replace) == 1)
        task = served.gateway._connections["worker-0"]._task
        assert task is not None
        await task  # the link has nothing more to do: it does not connect again
        assert described == []


async def test_a_static_worker_whose_engine_hangs_is_watched_until_it_goes_on() -> None:
    async with supervised(FakeWorker(), restarts=False) as served:
        (stream,) = await running(served, asked("abc"))

        served.worker.beat(limit_s=3, elapsed_s=4)
        await runs(served.worker, 0)
        await runs(served.worker, 1)

        assert [one.deaths for one in served.gateway.dispatcher._running] == [1], "an answer acquits no hung engine"
        served.worker.step(9)
        assert [told(messages) for messages in await collected([stream])] == await undisturbed(asked("abc"))


async def test_a_static_worker_that_was_stopped_and_goes_on_has_not_died() -> None:
    async with supervised(FakeWorker(), restarts=False) as served:
        (stream,) = await running(served, asked("abc"))
        served.worker.step()
        await until(lambda: _token_counts(served) == [1])

        served.clock.advance(4.0)
        await runs(served.worker, 0)
        await runs(served.worker, 1)

        assert [one.deaths for one in served.gateway.dispatcher._running] == [0]
        served.worker.step(9)
        await collected([stream])


async def test_a_worker_whose_stream_broke_and_that_does_not_answer_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.workers.connection.DESCRIBE_TIMEOUT_S", 0.05)
    async with supervised(FakeWorker()) as served:
        await served.worker.die()

        await until(lambda: len(served.pool.asked_to_replace) == 1)

        assert "no answer" in served.pool.asked_to_replace[0][1]


async def test_one_handshake_without_an_answer_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FakeWorker(runs_freely=True)
    answers = asyncio.Event()
    _hold_first(worker, answers)
    monkeypatch.setattr("gateway.workers.connection.DESCRIBE_TIMEOUT_S", 0.2)
    async with supervised(worker) as served:
        assert (await served.caller.generate(request(max_new_tokens=1))).candidates[0].text == "a"
        assert served.pool.asked_to_replace == []
        assert answers.is_set()


async def test_a_worker_that_drains_and_leaves_is_not_replaced() -> None:
    async with supervised(FakeWorker(runs_freely=True)) as served:
        served.worker.drain()
        await until(lambda: served.gateway.dispatcher.worker_count == 0)
        served.worker.end_streams()
        await kill(served)
        await restart(served)

        assert (await served.caller.generate(request(max_new_tokens=1))).candidates[0].text == "a"
        assert served.pool.asked_to_replace == []


async def test_a_worker_that_hangs_while_it_drains_is_replaced_and_harms_nobody() -> None:
    async with supervised(FakeWorker(), FakeWorker()) as served:
        (stream,) = await running(served, asked("abc"))
        served.worker.drain()
        await until(lambda: served.gateway.dispatcher.worker_count == 1)

        served.worker.beat(limit_s=3, elapsed_s=4)

        await until(lambda: len(served.pool.asked_to_replace) == 1)
        await runs(served.workers[1], 1)
        assert [one.deaths for one in served.gateway.dispatcher._running] == [0]
        served.workers[1].step(9)
        await collected([stream])


def _token_counts(served: Served) -> list[int]:
    return [one.output_token_count for one in served.gateway.dispatcher._running]


def _calls(worker: FakeWorker) -> list[worker_pb2.DescribeRequest]:
    """The handshakes from now on."""
    calls: list[worker_pb2.DescribeRequest] = []
    describe = worker.Describe

    async def noted(message: worker_pb2.DescribeRequest, context: object) -> worker_pb2.DescribeResponse:
        calls.append(message)
        return await describe(message, context)  # type: ignore[arg-type]

    worker.Describe = noted  # type: ignore[method-assign, assignment]
    return calls


def _hold_first(worker: FakeWorker, answers: asyncio.Event) -> None:
    """Leaves the first handshake without an answer."""
    describe = worker.Describe

    async def held(message: worker_pb2.DescribeRequest, context: object) -> worker_pb2.DescribeResponse:
        if not answers.is_set():
            answers.set()
            await asyncio.Event().wait()
        return await describe(message, context)  # type: ignore[arg-type]

    worker.Describe = held  # type: ignore[method-assign, assignment]
