"""Workers that share, come and go, hang, drain and lie."""

import asyncio
from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode, aio

from gateway.config import Config
from tests.fakes import FakeWorker, says
from tests.gateway.serving import Served, failing, failure_of, request, serving, text_of, to_the_end, until
from textserve.internal.v1 import worker_pb2
from textserve.v1 import generation_pb2 as pb

IMPATIENT = Config(listen="127.0.0.1:0", worker_wait=0.0)
Stream = aio.UnaryStreamCall[pb.GenerateRequest, pb.StreamGenerateResponse]


async def started(served: Served, count: int) -> list[Stream]:
    """Streams that run, one after the other."""
    streams: list[Stream] = []
    for number in range(count):
        streams.append(served.caller.generation.StreamGenerate(request(max_new_tokens=4)))
        await _row_count(served, number + 1)
    return streams


async def _row_count(served: Served, count: int) -> None:
    waiting = [asyncio.create_task(worker.until(lambda: _rows(served) == count)) for worker in served.workers]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _rows(served: Served) -> int:
    return sum(worker.row_count for worker in served.workers)


async def test_workers_share_by_their_room() -> None:
    async with serving(FakeWorker(rows=4), FakeWorker(rows=8)) as served:
        streams = await started(served, 12)

        assert [worker.row_count for worker in served.workers] == [4, 8]
        for stream in streams:
            stream.cancel()
        await served.nothing_runs()


async def test_idle_workers_take_turns() -> None:
    async with serving(FakeWorker(runs_freely=True), FakeWorker(runs_freely=True)) as served:
        receipts = [(await served.caller.generate(request(max_new_tokens=1))).receipt.worker for _ in range(4)]

    assert sorted(receipts) == ["worker-0", "worker-0", "worker-1", "worker-1"]


async def test_nothing_is_sent_to_a_worker_without_room() -> None:
    async with serving(FakeWorker(rows=2)) as served:
        streams = [served.caller.generation.StreamGenerate(request(max_new_tokens=1)) for _ in range(5)]
        await served.worker.until(lambda: served.worker.demand == 3)
        assert len(served.worker.submits) == 2

        served.worker.step()

        await served.worker.until(lambda: len(served.worker.submits) == 4)
        await served.worker.until(lambda: served.worker.demand == 1)
        for stream in streams:
            stream.cancel()
        await served.nothing_runs()


async def test_a_lowered_limit_holds_for_what_comes_and_a_raised_one_is_used_at_once() -> None:
    async with serving(FakeWorker(rows=2)) as served:
        (first,) = await started(served, 1)
        served.worker.grant(1)
        second = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.demand == 1)
        assert served.worker.row_count == 1

        served.worker.grant(2)

        await served.worker.until(lambda: served.worker.row_count == 2)
        first.cancel()
        second.cancel()
        await served.nothing_runs()


async def test_a_worker_whose_process_has_ended_is_given_up_until_it_is_up_again() -> None:
    async with serving(FakeWorker(runs_freely=True)) as served:
        await served.worker.die()
        served.pool.down(0)
        await served.worker.start()
        served.pool.up(0)

        answer = await served.caller.generate(request(max_new_tokens=1))

        assert answer.receipt.worker == "worker-0"


async def test_a_worker_that_comes_back_is_found_again() -> None:
    async with serving(FakeWorker(runs_freely=True)) as served:
        await served.worker.die()
        await served.worker.start()

        assert (await served.caller.generate(request(max_new_tokens=1))).candidates[0].text == "a"


@pytest.mark.parametrize(
    ("misbehave", "why"),
    [
        (lambda served: served.clock.advance(4.0), "silent"),
        (lambda served: served.worker.beat(limit_s=3, elapsed_s=4), "engine step"),
        (lambda served: served.worker.beat(incarnation_id="another"), "another process"),
        (lambda served: served.worker.end_streams(), "ended the stream"),
        (lambda served: served.worker.send(_mismatched()), "no sense"),
    ],
    ids=["silent", "hung engine", "another incarnation", "ends the stream", "mismatched step"],
)
async def test_a_worker_that_misbehaves_is_lost(misbehave: Callable[[Served], None], why: str) -> None:
    async with serving(FakeWorker(), config=IMPATIENT) as served:
        call = served.caller.generation.Generate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)

        misbehave(served)

        failure = await failing(call)
        assert failure.reason == "WORKER_LOST"
        assert why in failure.message
        # What may have killed one worker is not sent to the next by the caller's library.
        assert ("grpc-retry-pushback-ms", "-1") in tuple(await call.trailing_metadata())


async def test_a_worker_that_beats_in_time_is_not_lost() -> None:
    async with serving(FakeWorker()) as served:
        call = served.caller.generation.StreamGenerate(request(max_new_tokens=4))
        messages = aiter(call)
        await served.worker.until(lambda: served.worker.row_count == 1)
        for number in range(4):
            served.clock.advance(3.0)
            served.worker.beat(limit_s=100, elapsed_s=50)
            served.worker.step()
            if number == 0:
                assert (await anext(messages)).HasField("started")
            assert (await anext(messages)).HasField("delta")
        assert (await anext(messages)).HasField("finished")


async def test_messages_that_this_gateway_does_not_know_are_ignored() -> None:
    async with serving(FakeWorker(says("a"))) as served:
        call = served.caller.generation.Generate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)

        served.worker.send(worker_pb2.RunResponse())
        served.worker.send(worker_pb2.RunResponse(step=_stray_step()))
        served.worker.step(2)

        assert (await call).candidates[0].text == "a"


async def test_a_draining_worker_finishes_what_runs_and_takes_nothing_new() -> None:
    async with serving(FakeWorker(), FakeWorker()) as served:
        draining, _ = served.workers
        running, other = await started(served, 2)
        draining.drain()
        await until(lambda: served.gateway.dispatcher.worker_count == 1)

        more = [served.caller.generation.StreamGenerate(request()) for _ in range(3)]
        await served.workers[1].until(lambda: served.workers[1].row_count == 4)
        assert draining.row_count == 1
        draining.step(4)

        assert text_of([message async for message in running]) == "abab"
        for stream in (other, *more):
            stream.cancel()
        await served.nothing_runs()


async def test_what_a_drained_worker_never_began_goes_to_another() -> None:
    async with serving(FakeWorker(), FakeWorker(runs_freely=True)) as served:
        draining, other = served.workers
        call = served.caller.generation.Generate(request(max_new_tokens=2))
        await draining.until(lambda: draining.row_count == 1)

        draining.drain()
        draining.end_streams()

        assert (await call).receipt.worker == "worker-1"
        assert len(other.submits) == 1


async def test_a_sequence_that_the_worker_gives_up_is_internal_and_others_go_on() -> None:
    async with serving(FakeWorker(says("ab"))) as served:
        bad, good = await started(served, 2)
        (bad_id, _) = served.worker.streams[0].rows
        served.worker.send(worker_pb2.RunResponse(step=_failure(bad_id)))

        _, error = await to_the_end(bad)
        failure = failure_of(error)
        assert (failure.code, failure.reason) == (StatusCode.INTERNAL, "NON_FINITE_LOGITS")
        served.worker.step(3)
        assert text_of([message async for message in good]) == "ab"


async def test_one_request_whose_candidates_all_fail_ejects_no_worker() -> None:
    async with serving(FakeWorker(), FakeWorker()) as served:
        config = pb.GenerationConfig(do_sample=True, num_return_sequences=8)
        failed = served.caller.generation.StreamGenerate(pb.GenerateRequest(text="ab", generation_config=config))
        await _row_count(served, 8)
        (unlucky,) = (worker for worker in served.workers if worker.row_count)
        failure = worker_pb2.Step()
        for sequence_id in unlucky.streams[0].rows:
            failure.MergeFrom(_failure(sequence_id))
        unlucky.streams[0].rows.clear()
        unlucky.send(worker_pb2.RunResponse(step=failure))
        await to_the_end(failed)

        for stream in await started(served, 2):
            stream.cancel()
        assert len(unlucky.submits) == 2


async def test_a_worker_with_another_model_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    config = Config(listen="127.0.0.1:0", worker=("one is enough",))
    same, different = FakeWorker(runs_freely=True), FakeWorker(fingerprint="different")
    async with serving(same, config=config) as served:
        await different.start()
        served.pool.workers = (same, different)
        served.pool.up(1)
        await until(lambda: "instead of 'fingerprint'" in caplog.text)

        assert served.gateway.dispatcher.worker_count == 1
        await different.die()


async def test_a_tokenizer_that_is_not_the_announced_one_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    worker.serialized += b" "
    async with serving(worker, ready=False) as served:
        await until(lambda: "tokenizer has hash" in caplog.text)

        assert not served.gateway.ready.is_set()
        assert (await failing(served.caller.generate(request()))).reason == "NO_WORKER"


async def test_requests_wait_for_a_worker_that_is_restarted() -> None:
    async with serving(FakeWorker(runs_freely=True)) as served:
        await served.worker.die()
        served.pool.down(0)
        await until(lambda: served.gateway.dispatcher.worker_count == 0)
        call = served.caller.generation.Generate(request(max_new_tokens=1))

        await served.worker.start()
        served.pool.up(0)

        assert (await call).candidates[0].text == "a"


async def test_requests_do_not_wait_longer_than_they_may() -> None:
    config = Config(listen="127.0.0.1:0", worker_wait=0.1)
    async with serving(FakeWorker(), config=config) as served:
        await served.worker.die()
        served.pool.down(0)
        await until(lambda: served.gateway.dispatcher.worker_count == 0)

        waiting = await failing(served.caller.generate(request()))
        late = await failing(served.caller.generate(request()))

        for failure in (waiting, late):
            assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "NO_WORKER")
            assert failure.detail(error_details_pb2.RetryInfo)
        await served.nothing_runs()


def _mismatched() -> worker_pb2.RunResponse:
    return worker_pb2.RunResponse(step=worker_pb2.Step(step=1, sequence_ids=[1, 2], token_ids=[5]))


def _stray_step() -> worker_pb2.Step:
    start = worker_pb2.SequenceStart(sequence_id=10**9, wait=Duration(seconds=1))
    reason = worker_pb2.SEQUENCE_FINISH_REASON_LENGTH
    finish = worker_pb2.SequenceFinish(sequence_id=10**9, reason=reason)
    return worker_pb2.Step(step=1, sequence_ids=[10**9], token_ids=[5], starts=[start], finishes=[finish])


def _failure(sequence_id: int) -> worker_pb2.Step:
    reason = worker_pb2.SEQUENCE_FINISH_REASON_FAILED
    finish = worker_pb2.SequenceFinish(sequence_id=sequence_id, reason=reason, error="NON_FINITE_LOGITS")
    return worker_pb2.Step(step=1, finishes=[finish])
