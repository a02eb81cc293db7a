"""Deadlines over gRPC: what can't be in time is refused at once, and what was asked for in part comes before."""

from decimal import ROUND_CEILING, Context, Decimal

import pytest
from grpc import StatusCode, aio
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.services import timeout_rounding_s
from gateway.config import Config
from tests.fakes import FakeWorker, says
from tests.gateway.serving import Served, candidates_of, failing, request, serving, until_tokens
from tests.gateway.timers import Limits
from textserve.v1 import generation_pb2 as pb

LIMITED = Config(listen="127.0.0.1:0", request_timeout=10.0)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    made = Limits()
    monkeypatch.setattr("gateway.api.services.time_limit", made)
    return made


def partial(*, stops: tuple[str, ...] = (), max_new_tokens: int | None = None) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text="ab",
        partial_on_deadline=True,
        generation_config=pb.GenerationConfig(max_new_tokens=max_new_tokens),
        stop_sequences=stops,
        output_options=pb.OutputOptions(token_ids=True),
    )


async def working_off(served: Served, *, seconds_each: float, count: int) -> None:
    """Lets the only row of the worker end so many generations, one after the other, of those that wait."""
    for number in range(count):
        await served.worker.until(lambda number=number: len(served.worker.submits) == number + 1)  # type: ignore[misc]
        served.clock.advance(seconds_each)
        served.worker.step()


async def test_a_call_that_the_queue_lets_come_too_late_is_refused_at_once_with_the_estimate() -> None:
    async with serving(FakeWorker(rows=1)) as served:
        call = served.caller.generation.StreamGenerate
        waiting = [call(request(max_new_tokens=1)) for _ in range(10)]
        await served.worker.until(lambda: served.worker.demand == 9)
        await working_off(served, seconds_each=20.0, count=9)
        waiting += [call(request(max_new_tokens=1), timeout=45.0) for _ in range(3)]
        await served.worker.until(lambda: served.worker.demand == 3)

        failure = await failing(served.caller.generation.Generate(request(), timeout=50.0))
        patient = call(request(), timeout=1000.0)

        assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE")
        assert float(failure.metadata["estimateSeconds"]) == pytest.approx(60.0, abs=0.1)
        assert 40.0 < float(failure.metadata["remainingSeconds"]) <= 50.1
        await served.worker.until(lambda: served.worker.demand == 4)
        for stream in (*waiting, patient):
            stream.cancel()
        await served.nothing_runs()


async def test_the_servers_maximum_is_the_deadline_of_a_call_without_one(limits: Limits) -> None:
    async with serving(FakeWorker(), config=LIMITED) as served:
        call = served.caller.generation.StreamGenerate(partial())
        await served.worker.until(lambda: served.worker.row_count == 1)

        assert [remaining_s for remaining_s, _ in limits.running] == [pytest.approx(9.95)]
        call.cancel()
        await served.nothing_runs()


@pytest.mark.parametrize(("timeout_s", "least", "most"), [(60.0, 9.95, 9.95), (5.0, 2.0, 4.95)])
async def test_the_earlier_of_the_callers_deadline_and_the_servers_holds(
    timeout_s: float, least: float, most: float, limits: Limits
) -> None:
    async with serving(FakeWorker(), config=LIMITED) as served:
        call = served.caller.generation.StreamGenerate(partial(), timeout=timeout_s)
        await served.worker.until(lambda: served.worker.row_count == 1)

        ((remaining_s, _),) = limits.running
        assert least <= remaining_s <= most + 1e-6
        call.cancel()
        await served.nothing_runs()


@given(st.floats(0.001, 1e5))
def test_the_deadline_that_a_caller_holds_to_is_not_missed_by_rounding(timeout_s: float) -> None:
    came_s = float(Decimal(timeout_s).normalize(Context(prec=3, rounding=ROUND_CEILING)))

    assert came_s - timeout_rounding_s(came_s) <= timeout_s
    assert timeout_rounding_s(came_s) <= max(0.001, 0.011 * timeout_s)


async def test_a_call_is_ended_two_of_the_workers_steps_before_its_deadline(limits: Limits) -> None:
    async with serving(FakeWorker(says("abcd")), config=LIMITED) as served:
        messages = aiter(served.caller.generation.StreamGenerate(partial(max_new_tokens=4)))
        await served.worker.until(lambda: served.worker.row_count == 1)
        for number in range(4):
            served.worker.step()
            await until_tokens(messages, 1)
            served.clock.advance(1.0 if number < 3 else 0.0)
        await served.nothing_runs()

        call = served.caller.generation.StreamGenerate(partial())
        await served.worker.until(lambda: served.worker.row_count == 1)
        assert [remaining_s for remaining_s, _ in limits.running] == [pytest.approx(8.0)]
        call.cancel()
        await served.nothing_runs()


async def test_a_stream_ends_before_its_deadline_with_what_there_is_and_frees_its_row(limits: Limits) -> None:
    async with serving(FakeWorker(says("abcdef"))) as served:
        messages = aiter(served.caller.generation.StreamGenerate(partial()))
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step(3)
        received = await until_tokens(messages, 3)

        limits.over()
        received += [message async for message in messages]
        await served.nothing_runs()

    (candidate,) = candidates_of(received)
    assert (candidate.text, candidate.finish_reason) == ("abc", pb.FINISH_REASON_DEADLINE)
    assert received[-1].finished.usage.output_token_count == 3


async def test_a_whole_answer_comes_before_its_deadline_with_what_there_is(limits: Limits) -> None:
    async with serving(FakeWorker(says("abcdef"))) as served:
        call = served.caller.generation.Generate(partial())
        await served.worker.until(lambda: served.worker.row_count == 1)
        neighbour = served.caller.generation.StreamGenerate(
            pb.GenerateRequest(text="ab", output_options=pb.OutputOptions(token_ids=True))
        )
        await served.worker.until(lambda: served.worker.row_count == 2)
        served.worker.step(3)
        await until_tokens(aiter(neighbour), 3)

        limits.over()
        (candidate,) = (await call).candidates
        neighbour.cancel()

    assert (candidate.text, candidate.finish_reason) == ("abc", pb.FINISH_REASON_DEADLINE)


@pytest.mark.parametrize("streams", [False, True])
async def test_what_waits_ends_before_its_deadline_without_a_text_and_never_reaches_a_worker(
    limits: Limits, *, streams: bool
) -> None:
    async with serving(FakeWorker(rows=1)) as served:
        running = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        stub = served.caller.generation
        call = stub.StreamGenerate(partial()) if streams else stub.Generate(partial())
        await served.worker.until(lambda: served.worker.demand == 1)

        limits.over()
        if isinstance(call, aio.UnaryStreamCall):
            (candidate,) = candidates_of([message async for message in call])
        else:
            (candidate,) = (await call).candidates

        assert (candidate.text, candidate.finish_reason) == ("", pb.FINISH_REASON_DEADLINE)
        assert len(served.worker.submits) == 1
        running.cancel()
        await served.nothing_runs()


async def test_who_does_not_ask_for_a_part_is_not_ended_before(limits: Limits) -> None:
    async with serving(FakeWorker(), config=LIMITED) as served:
        call = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)

        assert not limits.running
        call.cancel()
        await served.nothing_runs()
