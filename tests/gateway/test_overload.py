"""More than can be served, and callers that read slowly."""

import asyncio
import threading

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode, aio

from gateway.config import Config
from gateway.domain.errors import ServiceError
from gateway.text.tokenizer import Tokenizer
from tests.fakes import FakeWorker
from tests.gateway.serving import Served, failing, request, serving, settle, text_of
from textserve.v1 import generation_pb2 as pb


async def test_a_full_queue_refuses_at_once_with_quota_and_retry_delay() -> None:
    async with serving(FakeWorker(rows=1), config=Config(listen="127.0.0.1:0", max_queued=2)) as served:
        taken = [served.caller.generation.StreamGenerate(request()) for _ in range(3)]
        await served.worker.until(lambda: served.worker.demand == 2)

        failure = await failing(served.caller.generate(request()))

        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert failure.metadata == {"limit": "2"}
        assert failure.detail(error_details_pb2.QuotaFailure).violations
        assert failure.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        for stream in taken:
            stream.cancel()
        await served.nothing_runs()


async def test_a_refusal_comes_before_any_work_on_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(FakeWorker(rows=1), config=Config(listen="127.0.0.1:0", max_queued=1)) as served:
        taken = [served.caller.generation.StreamGenerate(request()) for _ in range(2)]
        await served.worker.until(lambda: served.worker.demand == 1)
        monkeypatch.delattr("gateway.text.tokenizer.Tokenizer.encode")

        # What is wrong with it is not looked for, either.
        failures = [await failing(served.caller.generate(each)) for each in (request(), pb.GenerateRequest())]

        assert [failure.reason for failure in failures] == ["QUEUE_FULL"] * 2
        for stream in taken:
            stream.cancel()
        await served.nothing_runs()


async def test_calls_whose_prompts_are_still_tokenized_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Semaphore(0), threading.Event()
    encode = Tokenizer.encode

    def slow(tokenizer: Tokenizer, text: str) -> list[int]:
        begun.release()
        may_end.wait()
        return encode(tokenizer, text)

    monkeypatch.setattr("gateway.request.preprocess.INLINE_CHARS", 0)
    monkeypatch.setattr(Tokenizer, "encode", slow)
    async with serving(
        FakeWorker(rows=3, runs_freely=True), config=Config(listen="127.0.0.1:0", max_queued=2)
    ) as served:
        try:
            taken = [asyncio.create_task(served.caller.generate(request(max_new_tokens=2))) for _ in range(2)]
            for _ in taken:
                await asyncio.to_thread(begun.acquire)

            failure = await failing(served.caller.generate(request()))
        finally:
            may_end.set()

        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert [answer.candidates[0].text for answer in await asyncio.gather(*taken)] == ["ab", "ab"]
        await served.caller.generate(request(max_new_tokens=2))
        await served.nothing_runs()


async def test_waiting_prompts_are_bounded_in_tokens() -> None:
    async with serving(FakeWorker(rows=1), config=Config(listen="127.0.0.1:0", max_queued_tokens=50)) as served:
        taken = [served.caller.generation.StreamGenerate(request("x" * 40)) for _ in range(2)]
        await served.worker.until(lambda: served.worker.demand == 1)

        failure = await failing(served.caller.generate(request("x" * 11)))
        taken.append(served.caller.generation.StreamGenerate(request("x" * 10)))

        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert failure.metadata == {"limit": "50"}
        await served.worker.until(lambda: served.worker.demand == 2)
        for stream in taken:
            stream.cancel()
        await served.nothing_runs()


class SlowContext:
    """A call whose caller reads only when the test lets it."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.error: Exception | None = None
        self.written: list[pb.StreamGenerateResponse] = []

    async def write(self, message: pb.StreamGenerateResponse) -> None:
        self.written.append(message)
        await self.reads.wait()
        if self.error:
            raise self.error

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


def slow_call(served: Served) -> tuple[SlowContext, "asyncio.Task[None]"]:
    context = SlowContext()
    return context, asyncio.create_task(
        served.gateway.generation.StreamGenerate(request(max_new_tokens=100), context)  # type: ignore[arg-type]
    )


async def test_the_deltas_of_a_slow_reader_merge_and_nobody_else_notices() -> None:
    async with serving(FakeWorker()) as served:
        context, call = slow_call(served)
        await served.worker.until(lambda: served.worker.row_count == 1)
        neighbour = served.caller.generation.StreamGenerate(request(max_new_tokens=100))
        await served.worker.until(lambda: served.worker.row_count == 2)

        served.worker.step(100)

        assert text_of([message async for message in neighbour]) == "ab" * 50
        assert [message.WhichOneof("event") for message in context.written] == ["started"]
        context.reads.set()
        await call
        assert [message.WhichOneof("event") for message in context.written] == ["started", "delta", "finished"]
        assert text_of(context.written) == "ab" * 50


async def test_a_reader_that_lets_too_much_pile_up_is_cut_off_and_its_row_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.api.stream_writer.MAX_PENDING_CHARS", 20)
    async with serving(FakeWorker()) as served:
        context, call = slow_call(served)
        await served.worker.until(lambda: served.worker.row_count == 1)

        served.worker.step(50)

        await served.worker.until(lambda: served.worker.row_count == 0)
        await settle()
        assert not call.done()
        context.reads.set()
        with pytest.raises(ServiceError) as caught:
            await call
        assert caught.value.reason == "SLOW_READER"
        assert len(text_of(context.written)) == 21
        await served.nothing_runs()


async def test_a_writer_whose_caller_has_left_frees_its_row() -> None:
    async with serving(FakeWorker()) as served:
        context, call = slow_call(served)
        context.error = aio.InternalError("execute_batch")
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step()

        context.reads.set()

        await asyncio.wait([call])
        assert isinstance(call.exception(), aio.InternalError)
        await served.nothing_runs()
