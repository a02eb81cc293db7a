"""Until a call's first token is there nothing of it is sent, so that its caller's library may send it again."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from grpc import StatusCode, aio

from client import AsyncClient
from gateway.config import Config
from gateway.workers.protocol import duration
from tests.fakes import FakeWorker
from tests.gateway.losing import kill
from tests.gateway.serving import Served, failure_of, request, serving, settle, text_of, until
from textserve.v1 import generation_pb2 as pb

# CANCELLED is what becomes of calls that reach a gateway in the instant that it stops listening.
RETRIED = {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
IMPATIENT = Config(listen="127.0.0.1:0", worker_wait=0.0)


@dataclass
class Outcome:
    """What a caller saw of a call."""

    text: str = ""
    message_count: int = 0
    error: aio.AioRpcError | None = None

    @property
    def could_be_tried_again(self) -> bool:
        """Whether gRPC's own policy would have."""
        trailers = dict(tuple(self.error.trailing_metadata() or ())) if self.error else {}
        return (
            self.error is not None
            and self.error.code() in RETRIED
            and "grpc-retry-pushback-ms" not in trailers
            and not self.message_count
        )


@dataclass
class Calls:
    """Calls of both kinds, and what came of them."""

    served: Served
    pending: list["asyncio.Task[Outcome]"] = field(default_factory=list)

    def begin(self, count: int, *, max_new_tokens: int) -> None:
        message = request(max_new_tokens=max_new_tokens)
        for number in range(count):
            self.pending.append(asyncio.create_task(self._stream(message) if number % 2 else self._whole(message)))

    async def _whole(self, message: pb.GenerateRequest) -> Outcome:
        try:
            answer = await self.served.caller.generate(message)
        except aio.AioRpcError as error:
            return Outcome(error=error)
        return Outcome(answer.candidates[0].text, 1)

    async def _stream(self, message: pb.GenerateRequest) -> Outcome:
        got: list[pb.StreamGenerateResponse] = []
        try:
            async for each in self.served.caller.generation.StreamGenerate(message):
                got.append(each)  # noqa: PERF401 - what came before a failure counts
        except aio.AioRpcError as error:
            return Outcome(text_of(got), len(got), error)
        return Outcome(text_of(got), len(got))


@pytest.mark.parametrize("seed", range(12))
async def test_at_whatever_moment_a_gateway_is_told_to_stop_each_call_is_whole_or_can_be_tried_again(seed: int) -> None:
    chance = random.Random(seed)
    async with serving(FakeWorker(rows=2), FakeWorker(rows=3)) as served:
        calls = Calls(served)
        calls.begin(12, max_new_tokens=4)
        for _ in range(chance.randrange(40)):
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            chance.choice(served.workers).step()

        stopping = asyncio.create_task(served.gateway.stop(3600))
        while not stopping.done():
            await settle()
            for worker in served.workers:
                worker.step()
        outcomes = await asyncio.gather(*calls.pending)

    for outcome in outcomes:
        assert outcome.error is None or outcome.could_be_tried_again, outcome
        assert outcome.error is not None or outcome.text == "abab"


async def test_what_was_never_sent_to_a_worker_is_refused_at_once_by_a_drain_and_what_was_is_finished() -> None:
    async with serving(FakeWorker(rows=1)) as served:
        calls = Calls(served)
        calls.begin(1, max_new_tokens=4)
        await served.worker.until(lambda: served.worker.row_count == 1)
        first = calls.pending.pop()
        calls.begin(12, max_new_tokens=4)
        await served.worker.until(lambda: served.worker.demand == 12)

        stopping = asyncio.create_task(served.gateway.stop(3600))

        for outcome in await asyncio.gather(*calls.pending):
            assert outcome.error is not None
            assert failure_of(outcome.error).reason == "DRAINING"
            assert outcome.could_be_tried_again
        assert not first.done()
        served.worker.step(4)
        assert (await first).text == "abab"
        await stopping
        assert len(served.worker.submits) == 1


async def test_what_had_a_worker_and_waits_for_another_is_not_refused_by_a_drain() -> None:
    async with serving(FakeWorker(), FakeWorker(rows=0)) as served:
        calls = Calls(served)
        calls.begin(2, max_new_tokens=4)
        await served.worker.until(lambda: served.worker.row_count == 2)
        await kill(served)
        await until(lambda: served.gateway.dispatcher.queued_count == 2)

        stopping = asyncio.create_task(served.gateway.stop(3600))
        await settle()
        served.workers[1].grant(2)
        await served.workers[1].until(lambda: served.workers[1].row_count == 2)
        served.workers[1].step(4)

        assert [outcome.text for outcome in await asyncio.gather(*calls.pending)] == ["abab", "abab"]
        await stopping


async def test_a_stream_that_no_worker_has_begun_ends_with_no_message_when_the_grace_is_over() -> None:
    async with serving(FakeWorker()) as served:
        calls = Calls(served)
        calls.begin(2, max_new_tokens=4)
        await served.worker.until(lambda: served.worker.row_count == 2)

        await served.gateway.stop(0)

        assert all(outcome.could_be_tried_again for outcome in await asyncio.gather(*calls.pending))


async def test_what_waits_when_no_worker_comes_back_can_be_tried_again() -> None:
    async with serving(FakeWorker(rows=0), config=IMPATIENT) as served:
        calls = Calls(served)
        calls.begin(4, max_new_tokens=4)
        await served.worker.until(lambda: served.worker.demand == 4)

        await kill(served)

        outcomes = await asyncio.gather(*calls.pending)
        assert [failure_of(outcome.error).reason for outcome in outcomes if outcome.error] == ["NO_WORKER"] * 4
        assert all(outcome.could_be_tried_again for outcome in outcomes)


async def test_queued_streams_of_a_gateway_that_stops_go_on_at_the_next_one_without_a_word_to_their_callers() -> None:
    async with serving(FakeWorker(rows=0)) as stopping, serving(FakeWorker(runs_freely=True)) as next_:
        addresses = ",".join(each.gateway.address for each in (stopping, next_))
        async with AsyncClient(f"ipv4:{addresses}") as client:  # the first one that answers
            streams = [asyncio.create_task(_read(client)) for _ in range(6)]
            await stopping.worker.until(lambda: stopping.worker.demand == 6)

            await stopping.gateway.stop(60)

            assert await asyncio.gather(*streams) == ["abab"] * 6


async def _read(client: AsyncClient) -> str:
    async with client.stream("ab", max_new_tokens=4) as stream:
        return "".join([delta.text async for delta in stream])


ENDS_EARLY = {
    "max_time": pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(max_time=duration(0.05))),
    "partial_on_deadline": pb.GenerateRequest(text="ab", partial_on_deadline=True),
}


@pytest.mark.parametrize("kind", ENDS_EARLY)
async def test_a_stream_that_ends_in_the_queue_has_started_and_finished(kind: str) -> None:
    message = ENDS_EARLY[kind]
    message.output_options.echo = True
    async with serving(FakeWorker(rows=0)) as served:
        call = served.caller.generation.StreamGenerate(message, timeout=2.0)  # in which it has come to the gateway
        messages = [each async for each in call]

    assert [each.WhichOneof("event") for each in messages] == ["started", "delta", "finished"]
    assert messages[1].delta.text == "ab"
    assert messages[-1].finished.receipt.worker == ""
