"""What a request would be and how long it would take, without doing it."""

from grpc import StatusCode

from tests.fakes import FakeWorker
from tests.gateway.serving import Served, failing, request, serving
from textserve.v1 import generation_pb2 as pb


async def estimate(served: Served, asked: pb.GenerateRequest) -> pb.EstimateGenerateResponse:
    return await served.caller.generation.EstimateGenerate(pb.EstimateGenerateRequest(request=asked))


async def test_the_prompt_is_counted_as_it_would_be_read_and_nothing_is_submitted() -> None:
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", text="abc")])
    asked = pb.GenerateRequest(chat=chat, truncate_prompt=5)
    async with serving(FakeWorker(runs_freely=True)) as served:
        told = await estimate(served, asked)
        assert served.worker.submits == []
        answer = await served.caller.generate(asked)
    assert told.prompt_token_count == answer.usage.prompt_token_count == 5
    assert told.max_new_tokens == answer.receipt.generation_config.max_new_tokens
    assert told.queue.ToNanoseconds() == 0
    assert not told.HasField("time_to_first_token")
    assert not told.HasField("total")


async def test_times_are_what_was_seen() -> None:
    async with serving(FakeWorker()) as served:
        for _ in range(8):
            served.gateway.generation._admission_control._estimator.observe_prefill(2, 0.5, served.clock())
            served.gateway.generation._admission_control._estimator.observe_decode(10, 1.0)
        told = await estimate(served, request("ab", max_new_tokens=11))
    assert abs(told.time_to_first_token.ToNanoseconds() / 1e9 - 0.5) < 1e-6
    assert abs(told.total.ToNanoseconds() / 1e9 - 1.5) < 1e-6


async def test_what_generate_would_refuse_is_refused_and_lists_are_bounded() -> None:
    async with serving(FakeWorker()) as served:
        long = await failing(estimate(served, request("a" * 400)))
        listed = await failing(estimate(served, pb.GenerateRequest(text="ab", stop_sequences=["x"] * 17)))
        empty = await failing(estimate(served, pb.GenerateRequest()))
    assert (long.code, long.reason) == (StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
    assert listed.fields == {"request.stop_sequences"}
    assert empty.reason == "REQUIRED"
