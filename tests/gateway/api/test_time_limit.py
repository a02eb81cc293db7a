"""A request's own time is over: it ends with what there is, and leaves nothing behind."""

import asyncio

import pytest

from gateway.api.services import time_limit
from gateway.workers.protocol import duration
from tests.fakes import FakeWorker, says, says_each
from tests.gateway.serving import candidates_of, request, serving, until, until_tokens
from tests.gateway.timers import Limits
from textserve.v1 import generation_pb2 as pb


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    made = Limits()
    monkeypatch.setattr("gateway.api.services.time_limit", made)
    return made


def limited(*, stops: tuple[str, ...] = (), **config: float) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text="ab",
        generation_config=pb.GenerationConfig(max_time=duration(10.0), **config),  # type: ignore[arg-type]
        stop_sequences=stops,
        output_options=pb.OutputOptions(token_ids=True),
    )


async def test_what_runs_ends_with_what_there_is_and_frees_its_row(limits: Limits) -> None:
    async with serving(FakeWorker(says("abcdef"))) as served:
        messages = aiter(served.caller.generation.StreamGenerate(limited()))
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step(3)
        received = await until_tokens(messages, 3)

        limits.over()
        # At once, not when the caller has read the rest.
        await served.worker.until(lambda: bool(served.worker.cancelled))
        received += [message async for message in messages]
        await served.nothing_runs()

        assert served.worker.cancelled == {served.worker.submits[0].sequences[0].sequence_id}
    (candidate,) = candidates_of(received)
    assert (candidate.text, candidate.finish_reason) == ("abc", pb.FINISH_REASON_TIME_LIMIT)
    assert received[-1].finished.usage.output_token_count == 3
    assert received[-1].finished.receipt.generation_config.max_time == duration(10.0)


async def test_a_whole_answer_is_what_a_stream_would_have_brought(limits: Limits) -> None:
    async with serving(FakeWorker(says("abcdef"))) as served:
        call = served.caller.generation.Generate(limited())
        await served.worker.until(lambda: served.worker.row_count == 1)
        output = pb.OutputOptions(token_ids=True)
        neighbour = served.caller.generation.StreamGenerate(pb.GenerateRequest(text="ab", output_options=output))
        await served.worker.until(lambda: served.worker.row_count == 2)
        served.worker.step(3)
        await until_tokens(aiter(neighbour), 3)

        limits.over()
        (candidate,) = (await call).candidates
        neighbour.cancel()

    assert (candidate.text, candidate.finish_reason) == ("abc", pb.FINISH_REASON_TIME_LIMIT)


async def test_what_was_held_back_is_delivered(limits: Limits) -> None:
    async with serving(FakeWorker(says("abc"))) as served:
        messages = aiter(served.caller.generation.StreamGenerate(limited(stops=("bcd",))))
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step(3)
        received = await until_tokens(messages, 3)
        assert "".join(message.delta.text for message in received) == "a"

        limits.over()
        received += [message async for message in messages]

    assert candidates_of(received)[0].text == "abc"


async def test_what_waits_in_the_queue_ends_empty_and_never_reaches_a_worker(limits: Limits) -> None:
    async with serving(FakeWorker(rows=1)) as served:
        running = served.caller.generation.StreamGenerate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        call = served.caller.generation.Generate(limited())
        await served.worker.until(lambda: served.worker.demand == 1)

        limits.over()
        (candidate,) = (await call).candidates

        assert (candidate.text, candidate.finish_reason) == ("", pb.FINISH_REASON_TIME_LIMIT)
        assert len(served.worker.submits) == 1
        running.cancel()
        await served.nothing_runs()


async def test_candidates_that_have_ended_keep_their_end(limits: Limits) -> None:
    async with serving(FakeWorker(says_each("a", "abcdef"))) as served:
        messages = aiter(served.caller.generation.StreamGenerate(limited(num_return_sequences=2, temperature=1.0)))
        await served.worker.until(lambda: served.worker.row_count == 2)
        served.worker.step(2)
        received = await until_tokens(messages, 4)

        limits.over()
        received += [message async for message in messages]
        await served.nothing_runs()

    assert [(candidate.text, candidate.finish_reason) for candidate in candidates_of(received)] == [
        ("a", pb.FINISH_REASON_END_OF_SEQUENCE),
        ("ab", pb.FINISH_REASON_TIME_LIMIT),
    ]


async def test_a_candidate_without_a_token_ends_empty_and_without_a_score(limits: Limits) -> None:
    async with serving(FakeWorker()) as served:
        call = served.caller.generation.Generate(limited(best_of=3, temperature=1.0))
        await served.worker.until(lambda: served.worker.row_count == 3)

        limits.over()
        (candidate,) = (await call).candidates
        await served.nothing_runs()

    assert (candidate.text, candidate.finish_reason) == ("", pb.FINISH_REASON_TIME_LIMIT)
    assert not candidate.HasField("score")


async def test_the_time_counts_from_the_arrival(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(FakeWorker()) as served:
        encode = served.gateway.models.current.tokenizer.encode  # type: ignore[union-attr]

        def slowly(_self: object, text: str) -> list[int]:
            served.clock.advance(4.0)
            return encode(text)

        monkeypatch.setattr("gateway.text.tokenizer.Tokenizer.encode", slowly)
        call = served.caller.generation.StreamGenerate(limited())
        await served.worker.until(lambda: served.worker.row_count == 1)

        assert [remaining_s for remaining_s, _ in limits.running] == [6.0]
        call.cancel()
        await until(lambda: not limits.running)


async def test_what_ends_in_time_is_as_without_a_limit(limits: Limits) -> None:
    async with serving(FakeWorker(says("x"), runs_freely=True)) as served:
        (candidate,) = (await served.caller.generate(limited())).candidates

    assert (candidate.text, candidate.finish_reason) == ("x", pb.FINISH_REASON_END_OF_SEQUENCE)
    assert not limits.running


@pytest.mark.parametrize("remaining_s", [-5.0, 0.0, 0.001])
async def test_a_limit_tells_once_that_the_time_is_over(remaining_s: float) -> None:
    over = asyncio.Event()
    with time_limit(remaining_s, over.set):
        assert not over.is_set()
        await over.wait()


async def test_a_limit_that_is_left_in_time_tells_nothing() -> None:
    calls: list[str] = []
    with time_limit(0.0, lambda: calls.append("left")), time_limit(None, lambda: calls.append("none")):
        pass

    over = asyncio.Event()
    with time_limit(0.0, over.set):
        await over.wait()
    assert calls == []
