"""Calls of one name generate once, whoever of them leaves; what is another request is not taken for it."""

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.api.idempotency import Answer, Deduplication, Response
from gateway.domain.errors import ServiceError, deadline_exceeded, no_worker
from gateway.domain.request import Call
from gateway.domain.tenancy import Caller, TenantPolicy
from gateway.request.executor import Executors
from gateway.workers.protocol import duration
from tests.fakes import FakeWorker
from tests.gateway.serving import FakeClock, serving, settle
from textserve.v1 import generation_pb2 as pb


@dataclass
class Scene:
    """Work that ends when the test says so."""

    clock: FakeClock = field(default_factory=FakeClock)
    begun: int = 0
    cancelled: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether work that is cancelled comes to its end."""
    outcome: "asyncio.Future[Response]" = field(default_factory=asyncio.Future)
    is_cut: bool = False
    """Whether a deadline ends the work that is begun."""

    def __post_init__(self) -> None:
        self.may_end.set()
        self.deduplication = Deduplication(self.clock, Executors(TenantPolicy(), self.clock))

    async def work(self) -> Answer:
        self.begun += 1
        try:
            return Answer(await asyncio.shield(self.outcome), is_cut=self.is_cut)
        except asyncio.CancelledError:
            self.cancelled += 1
            await self.may_end.wait()
            raise

    def call(self, request: pb.GenerateRequest, tenant: str = "tenant") -> "asyncio.Task[pb.GenerateResponse]":
        return asyncio.create_task(self._answer(request, tenant))

    async def _answer(self, request: pb.GenerateRequest, tenant: str) -> pb.GenerateResponse:
        call = Call(Caller(tenant), arrived_at=self.clock(), deadline_at=self.clock() + 60)
        response = await self.deduplication.run(call, request, self.work)
        return pb.GenerateResponse.FromString(response) if isinstance(response, bytes) else response

    def nothing_left(self) -> bool:
        return not self.deduplication._running


def named(name: str = "name", text: str = "ab") -> pb.GenerateRequest:
    return pb.GenerateRequest(request_id=name, text=text)


ANSWER = pb.GenerateResponse(candidates=[pb.Candidate(text="answer")])


async def test_an_answer_that_is_bytes_already_is_shared_and_kept_as_it_is() -> None:
    scene = Scene()
    calls = [scene.call(named()) for _ in range(2)]
    await settle()
    scene.outcome.set_result(ANSWER.SerializeToString())
    assert [await call for call in calls] == [ANSWER] * 2
    assert await scene.call(named()) == ANSWER
    assert scene.begun == 1


async def test_a_large_request_is_told_from_another_on_a_thread() -> None:
    scene = Scene()
    scene.outcome.set_result(ANSWER)
    assert await scene.call(named(text="ab" * 5000)) == ANSWER
    assert await scene.call(named(text="ab" * 5000)) == ANSWER
    with pytest.raises(ServiceError):
        await scene.call(named(text="ba" * 5000))
    assert scene.begun == 1


async def test_calls_of_one_name_at_one_time_generate_once() -> None:
    scene = Scene()
    calls = [scene.call(named()) for _ in range(5)]
    await settle()
    scene.outcome.set_result(ANSWER)

    assert await asyncio.gather(*calls) == [ANSWER] * 5
    assert scene.begun == 1
    assert scene.nothing_left()


async def test_an_answer_is_returned_again_for_a_short_while() -> None:
    scene = Scene()
    scene.outcome.set_result(ANSWER)
    assert await scene.call(named()) == ANSWER
    scene.clock.advance(59.0)
    assert await scene.call(named()) == ANSWER
    assert scene.begun == 1

    scene.clock.advance(2.0)
    assert await scene.call(named()) == ANSWER
    assert scene.begun == 2


async def test_calls_without_a_name_have_nothing_to_do_with_each_other() -> None:
    scene = Scene()
    calls = [scene.call(pb.GenerateRequest(text="ab")) for _ in range(2)]
    await settle()
    scene.outcome.set_result(ANSWER)
    await asyncio.gather(*calls)
    assert scene.begun == 2


async def test_one_name_of_two_tenants_is_two_calls() -> None:
    scene = Scene()
    calls = [scene.call(named(), tenant) for tenant in ("one", "other")]
    await settle()
    scene.outcome.set_result(ANSWER)
    await asyncio.gather(*calls)
    assert scene.begun == 2


@pytest.mark.parametrize("when", ["while it runs", "after its end"])
async def test_another_request_under_the_same_name_is_refused(when: str) -> None:
    scene = Scene()
    first = scene.call(named(text="ab"))
    await settle()
    if when == "after its end":
        scene.outcome.set_result(ANSWER)
        await first

    with pytest.raises(ServiceError, match="REQUEST_ID_TAKEN"):
        await scene.call(named(text="cd"))

    assert scene.begun == 1
    if when == "while it runs":
        scene.outcome.set_result(ANSWER)
    assert await first == ANSWER


async def test_the_order_of_a_map_makes_no_other_request() -> None:
    scene = Scene()
    first, other = named(), named()
    passing = range(300_000, 300_900)
    other.generation_config.logit_bias.update(dict.fromkeys(passing, 1.0))
    for number in passing:
        del other.generation_config.logit_bias[number]
    for number in range(50):
        first.generation_config.logit_bias[number * 7919] = 1.0
        other.generation_config.logit_bias[(49 - number) * 7919] = 1.0
    assert first == other
    assert first.SerializeToString() != other.SerializeToString()

    calls = [scene.call(request) for request in (first, other)]
    await settle()
    scene.outcome.set_result(ANSWER)
    await asyncio.gather(*calls)
    assert scene.begun == 1


@pytest.mark.parametrize("leaving", [0, 1], ids=["the first", "the joiner"])
async def test_one_that_leaves_does_not_end_the_call_while_another_waits(leaving: int) -> None:
    scene = Scene()
    calls = [scene.call(named()), scene.call(named())]
    await settle()
    calls.pop(leaving).cancel()
    await settle()
    assert scene.cancelled == 0

    scene.outcome.set_result(ANSWER)

    assert await calls[0] == ANSWER


async def test_when_all_have_left_the_call_ends_and_the_next_one_begins_anew() -> None:
    scene = Scene()
    calls = [scene.call(named()) for _ in range(3)]
    await settle()
    for call in calls:
        call.cancel()
    await settle()
    assert (scene.begun, scene.cancelled) == (1, 1)
    assert scene.nothing_left()

    again = scene.call(named())
    await settle()
    scene.outcome.set_result(ANSWER)
    assert await again == ANSWER
    assert scene.begun == 2


async def test_nobody_joins_a_call_that_is_being_cancelled_and_its_end_harms_nobody() -> None:
    scene = Scene()
    first = scene.call(named())
    await settle()
    scene.may_end.clear()
    first.cancel()
    await settle()

    again = scene.call(named())
    await settle()
    assert scene.begun == 2
    scene.may_end.set()
    await settle()
    joiner = scene.call(named())
    await settle()
    assert scene.begun == 2, "the end of the first leaves the name to the second"

    scene.outcome.set_result(ANSWER)
    assert list(await asyncio.gather(again, joiner)) == [ANSWER] * 2
    assert scene.nothing_left()


async def test_a_failure_is_told_to_all_that_wait_and_not_kept() -> None:
    scene = Scene()
    calls = [scene.call(named()), scene.call(named())]
    await settle()
    scene.outcome.set_exception(no_worker())
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, ServiceError)
        assert outcome.reason == "NO_WORKER"
    assert scene.nothing_left()

    scene.outcome = asyncio.Future()
    scene.outcome.set_result(ANSWER)
    assert await scene.call(named()) == ANSWER
    assert scene.begun == 2


async def test_a_name_that_is_too_long_is_refused_before_anything_is_done() -> None:
    scene = Scene()
    with pytest.raises(ServiceError, match="at most 128 bytes, has 130"):
        await scene.call(named("é" * 65))
    assert scene.begun == 0
    scene.outcome.set_result(ANSWER)
    assert await scene.call(named("é" * 64)) == ANSWER


async def test_whoever_joined_a_call_with_less_time_is_served_anew_once_that_is_over() -> None:
    scene = Scene()
    first, joiner = scene.call(named()), scene.call(named())
    await settle()
    lost, scene.outcome = scene.outcome, asyncio.Future()
    lost.set_exception(deadline_exceeded(1.0, "queue"))

    with pytest.raises(ServiceError, match="REQUEST_TIMEOUT"):
        await first
    await settle()
    scene.outcome.set_result(ANSWER)
    assert await joiner == ANSWER
    assert scene.begun == 2
    assert scene.nothing_left()


async def test_an_answer_that_a_deadline_has_cut_is_for_its_own_caller_alone() -> None:
    scene = Scene()
    scene.is_cut = True
    first, joiner = scene.call(named()), scene.call(named())
    await settle()
    cut, scene.outcome = scene.outcome, asyncio.Future()
    cut.set_result(pb.GenerateResponse(candidates=[pb.Candidate(text="ans")]))

    assert (await first).candidates[0].text == "ans"
    await settle()
    assert not joiner.done()
    scene.is_cut = False
    scene.outcome.set_result(ANSWER)
    assert await joiner == ANSWER
    assert await scene.call(named()) == ANSWER
    assert scene.begun == 2


@pytest.mark.parametrize("best_of", [1, 3])
async def test_a_retry_after_a_call_that_its_deadline_has_cut_gets_the_whole_answer(best_of: int) -> None:
    config = pb.GenerationConfig(max_new_tokens=4, temperature=1.0, seed=1, best_of=best_of)
    message = pb.GenerateRequest(request_id="name", text="ab", generation_config=config, partial_on_deadline=True)
    async with serving(FakeWorker()) as served:
        cut = served.caller.generation.Generate(message, timeout=2.0)  # in which it has come to run
        await served.worker.until(lambda: served.worker.row_count == best_of)
        whole = served.caller.generation.Generate(message, timeout=60.0)
        served.worker.step(2)

        assert (await cut).candidates[0].text == "ab"
        assert (await cut).candidates[0].finish_reason == pb.FINISH_REASON_DEADLINE
        await served.worker.until(lambda: len(served.worker.submits) == 2)
        served.worker.step(4)

        assert (await whole).candidates[0].text == "abab"
        assert await served.caller.generate(message) == await whole
        assert len(served.worker.submits) == 2


async def test_an_answer_that_its_own_time_limit_has_cut_is_shared() -> None:
    config = pb.GenerationConfig(max_time=duration(0.2))
    message = pb.GenerateRequest(request_id="name", text="ab", generation_config=config)
    async with serving(FakeWorker()) as served:
        first = await served.caller.generate(message)

        assert first.candidates[0].finish_reason == pb.FINISH_REASON_TIME_LIMIT
        assert await served.caller.generate(message) == first
        assert len(served.worker.submits) == 1


async def test_many_that_join_calls_with_less_time_are_soon_served_by_themselves() -> None:
    scene = Scene()
    scene.outcome.set_exception(deadline_exceeded(1.0, "queue"))
    calls = [scene.call(named()) for _ in range(1100)]
    for call in calls:
        with pytest.raises(ServiceError, match="REQUEST_TIMEOUT"):
            await call
    assert scene.begun == len(calls)
    assert scene.nothing_left()
