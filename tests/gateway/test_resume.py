"""A lost worker pauses streams and ends none: they go on elsewhere with the tokens that they would have had."""

import asyncio
from collections.abc import Iterable

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode

from gateway.config import Config
from tests.fakes import FakeWorker, ids, repeats_prompt, says
from tests.gateway.losing import asked, collected, kill, prompts_on, restart, running, runs, told, undisturbed
from tests.gateway.serving import Served, failing, failure_of, serving, text_of, to_the_end, until
from textserve.internal.v1 import worker_pb2
from textserve.v1 import generation_pb2 as pb

IMPATIENT = Config(listen="127.0.0.1:0", worker_wait=0.0)
# Characters of two, three and four bytes, so that a worker may be lost within one of them.
PROMPTS = ("abc", "de", "aé", "x€", "🚀", "fgh")


async def test_streams_of_a_killed_worker_go_on_with_exactly_the_tokens_of_an_undisturbed_run() -> None:
    requests = [asked(prompt) for prompt in PROMPTS]
    expected = await undisturbed(*requests)
    async with serving(FakeWorker(), FakeWorker()) as served:
        streams = await running(served, *requests)
        victim, other = served.workers
        moved = victim.row_count
        victim.step(4)
        other.step(2)
        await until(lambda: min(one.output_token_count for one in served.gateway.dispatcher._running) >= 2)
        await until(lambda: sum(one.output_token_count for one in served.gateway.dispatcher._running) == 18)

        await kill(served)
        await runs(other, len(PROMPTS))
        other.step(7)

        received = await collected(streams)
        assert [told(messages) for messages in received] == expected
        attempts = [messages[-1].finished.receipt.attempt_count for messages in received]
        assert sorted(attempts) == [1] * (len(PROMPTS) - moved) + [2] * moved
        await served.nothing_runs()


async def test_what_was_delivered_is_not_generated_again() -> None:
    async with serving(FakeWorker(), FakeWorker()) as served:
        (stream,) = await running(served, asked("abc"))
        messages = aiter(stream)
        served.workers[0].step(2)
        got = [await anext(messages)]
        while len(told(got).candidates[0].token_ids) < 2:
            got.append(await anext(messages))

        await kill(served)
        await runs(served.workers[1], 1)

        (sequence,) = served.workers[1].submits[0].sequences
        assert list(sequence.output_token_ids) == ids("ab")
        served.workers[1].step(7)
        got += [message async for message in messages]
        assert told(got) == (await undisturbed(asked("abc")))[0]


@pytest.mark.parametrize("steps", range(5))
async def test_a_stop_sequence_is_found_across_the_loss_of_a_worker(steps: int) -> None:
    request = pb.GenerateRequest(text="ab", stop_sequences=["cdef"])
    async with serving(FakeWorker(says("abcdefgh")), FakeWorker(says("abcdefgh"))) as served:
        call = served.caller.generation.Generate(request)
        await runs(served.worker, 1)
        served.worker.step(steps)
        await until(lambda: sum(one.output_token_count for one in served.gateway.dispatcher._running) == steps)

        await kill(served)
        await runs(served.workers[1], 1)
        served.workers[1].step(8)

        answer = await call
        assert (answer.candidates[0].text, answer.candidates[0].stop_sequence) == ("ab", "cdef")
        assert answer.usage.output_token_count == len(ids("abcdef"))
        await served.nothing_runs()


async def test_with_every_worker_killed_at_once_streams_wait_for_the_restart_and_run_together() -> None:
    requests = [asked(prompt) for prompt in PROMPTS]
    expected = await undisturbed(*requests)
    async with serving(FakeWorker(), FakeWorker()) as served:
        streams = await running(served, *requests)
        for worker in served.workers:
            worker.step(3)
        await asyncio.gather(kill(served, 0), kill(served, 1))
        await until(lambda: served.gateway.dispatcher.queued_count == len(PROMPTS))

        await restart(served, 1)
        await runs(served.workers[1], len(PROMPTS))
        served.workers[1].step(9)

        assert [told(messages) for messages in await collected(streams)] == expected
        await served.nothing_runs()


async def test_new_calls_are_taken_behind_the_old_ones_while_no_worker_is_there() -> None:
    async with serving(FakeWorker()) as served:
        (old,) = await running(served, asked("abc"))
        await kill(served)
        await until(lambda: served.gateway.dispatcher.queued_count == 1)
        new = served.caller.generation.StreamGenerate(asked("de"))
        await until(lambda: served.gateway.dispatcher.queued_count == 2)

        await restart(served)
        await runs(served.worker, 2)

        assert prompts_on(served.worker) == [ids("abc"), ids("de")]
        served.worker.step(9)
        assert [told(messages) for messages in await collected([old, new])] == await undisturbed(
            asked("abc"), asked("de")
        )


async def test_when_no_worker_comes_in_time_a_stream_ends_behind_what_was_generated() -> None:
    async with serving(FakeWorker(), config=IMPATIENT) as served:
        (stream,) = await running(served, asked("abc"))
        served.worker.step(4)
        await until(lambda: sum(one.output_token_count for one in served.gateway.dispatcher._running) == 4)

        await kill(served)

        received, error = await to_the_end(stream)
        assert text_of(received) == "abca"
        failure = failure_of(error)
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "WORKER_LOST")
        assert failure.metadata == {"worker": "worker-0"}
        assert failure.detail(error_details_pb2.RetryInfo)
        # What may have killed one worker is not sent to the next by the caller's library.
        assert ("grpc-retry-pushback-ms", "-1") in tuple(await stream.trailing_metadata())
        await served.nothing_runs()


async def test_a_caller_that_leaves_while_its_stream_waits_leaves_nothing_behind() -> None:
    async with serving(FakeWorker()) as served:
        (stream,) = await running(served, asked("abc"))
        await kill(served)
        await until(lambda: served.gateway.dispatcher.queued_count == 1)

        stream.cancel()

        await served.nothing_runs()


async def test_a_candidate_that_has_ended_is_not_run_again() -> None:
    def script(submit: worker_pb2.Submit) -> Iterable[int]:
        return ids("x") if submit.sequences[0].seed == 7 else repeats_prompt(submit)

    config = pb.GenerationConfig(max_new_tokens=5, seed=7, temperature=1.0, num_return_sequences=3)
    async with serving(FakeWorker(script), FakeWorker(script)) as served:
        call = served.caller.generation.Generate(pb.GenerateRequest(text="ab", generation_config=config))
        await runs(served.worker, 3)
        served.worker.step(3)
        await until(lambda: _finished(served) == 1)

        await kill(served)
        await runs(served.workers[1], 2)

        (submit,) = served.workers[1].submits
        assert [len(sequence.output_token_ids) for sequence in submit.sequences] == [3, 3]
        served.workers[1].step(2)
        answer = await call
        assert [candidate.text for candidate in answer.candidates] == ["x", "ababa", "ababa"]
        assert answer.usage.output_token_count == 2 + 5 + 5


async def test_a_beam_search_begins_again() -> None:
    config = pb.GenerationConfig(max_new_tokens=4, num_beams=3, num_return_sequences=2)
    async with serving(FakeWorker(), FakeWorker()) as served:
        call = served.caller.generation.Generate(pb.GenerateRequest(text="ab", generation_config=config))
        await runs(served.worker, 2)

        await kill(served)
        await runs(served.workers[1], 2)

        assert served.workers[1].submits == served.workers[0].submits
        served.workers[1].step()
        answer = await call
        assert [candidate.text for candidate in answer.candidates] == ["abab", "abab"]
        assert answer.receipt.attempt_count == 2


async def test_a_worker_that_fails_a_request_and_lives_on_has_the_last_word() -> None:
    async with serving(FakeWorker(), FakeWorker()) as served:
        call = served.caller.generation.Generate(asked("abc"))
        await runs(served.worker, 1)
        (sequence_id,) = served.worker.streams[0].rows
        reason = worker_pb2.SEQUENCE_FINISH_REASON_FAILED
        finish = worker_pb2.SequenceFinish(sequence_id=sequence_id, reason=reason, error="ENGINE_ERROR")

        served.worker.send(worker_pb2.RunResponse(step=worker_pb2.Step(step=1, finishes=[finish])))

        assert (await failing(call)).reason == "ENGINE_ERROR"
        assert served.workers[1].submits == []


def _finished(served: Served) -> int:
    return sum(one.finished for each in served.gateway.dispatcher._running for one in each.sequences)
