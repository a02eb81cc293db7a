"""The worker's service: what a gateway gets for what it submits, and who is harmed when something goes wrong."""

import asyncio
import math
from typing import Any

import pytest

from tests.worker.fake_model import EXPLOSIVE, POISON, VOCAB_SIZE, expected
from tests.worker.serving import DESCRIPTION, LIMIT_S, TOKENIZER, read_or_end, serving, submission, until
from textserve.internal.v1 import worker_pb2 as pb
from worker.domain.plan import Plan
from worker.service import service as service_module

# gRPC keeps its poller for the process: one event loop for all tests here keeps it from meeting a closed one.
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_describe_and_get_tokenizer_send_what_the_worker_holds() -> None:
    async with serving() as worker:
        stub = await worker.stub()
        assert await stub.Describe(pb.DescribeRequest()) == DESCRIPTION
        parts = [part async for part in stub.GetTokenizer(pb.GetTokenizerRequest())]
    assert parts[0].info.sha256 == TOKENIZER.sha256
    assert b"".join(part.chunk for part in parts[1:]) == TOKENIZER.serialized
    assert [part.WhichOneof("part") for part in parts] == ["info"] + ["chunk"] * 3


async def test_a_submission_gets_its_tokens_and_its_finish() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        await gateway.submit(7, [5, 6, 7], 12)
        await gateway.until_ended(7)
        gateway.check(7, [5, 6, 7], 12)
        assert worker.held_sequences == set()


async def test_many_sequences_of_two_gateways_get_their_own_tokens() -> None:
    async with serving() as worker:
        gateways = await worker.gateways(2)
        prompts = {number: [number + 3] * (1 + number % 7) for number in range(20)}
        for number, prompt in prompts.items():
            for gateway in gateways:
                await gateway.submit(number, prompt, 3 + number % 5)
        for gateway in gateways:
            await gateway.until_ended(*prompts)
            for number, prompt in prompts.items():
                gateway.check(number, prompt, 3 + number % 5)


@pytest.mark.parametrize(
    ("prompt", "changes"),
    [
        ([], {}),
        ([VOCAB_SIZE], {}),
        ([-1], {}),
        ([5], {"top_p": math.nan}),
        ([5], {"temperature": -1.0, "do_sample": True}),
        ([5], {"num_beams": 2, "early_stopping": 99}),
    ],
    ids=str,
)
async def test_an_invalid_submission_fails_alone(prompt: list[int], changes: dict[str, Any]) -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        await gateway.submit(1, [5, 6], 10)
        await gateway.submit(2, prompt, 10, **changes)
        await gateway.until_ended(1, 2)
        gateway.check(1, [5, 6], 10)
        assert gateway.finishes[2] == failed(2, "INVALID_SUBMISSION")


def failed(number: int, error: str) -> pb.SequenceFinish:
    return pb.SequenceFinish(sequence_id=number, reason=pb.SEQUENCE_FINISH_REASON_FAILED, error=error)


async def test_a_submission_that_can_never_fit_fails_alone() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        await gateway.submit(1, [5] * 60, 5)
        await gateway.submit(2, [5] * 60, 4)
        await gateway.until_ended(1, 2)
        assert gateway.finishes[1] == failed(1, "TOO_LONG")
        gateway.check(2, [5] * 60, 4)


async def test_logits_that_are_not_finite_fail_their_row_alone() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        await gateway.submit(1, [5, 6], 20)
        await gateway.submit(2, [POISON, 4], 20)
        await gateway.submit(3, [9], 25)
        await gateway.until_ended(1, 2, 3)
        assert gateway.finishes[2] == failed(2, "NON_FINITE_LOGITS")
        assert gateway.tokens[2] == expected([POISON, 4], 4)
        gateway.check(1, [5, 6], 20)
        gateway.check(3, [9], 25)


async def test_an_error_in_a_step_fails_its_sequences_and_the_worker_serves_the_next_ones() -> None:
    async with serving() as worker:
        first, second = await worker.gateways(2)
        await first.submit(1, [EXPLOSIVE], 5)
        await first.until_ended(1)
        assert first.finishes[1] == failed(1, "ENGINE_ERROR")
        for gateway in (first, second):
            await gateway.submit(2, [5, 6], 7)
            await gateway.until_ended(2)
            gateway.check(2, [5, 6], 7)
        assert worker.held_sequences == set()
        assert not worker.service.engine_died.is_set()


async def test_an_engine_that_cannot_be_reset_is_told_to_whoever_runs_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(_: Plan) -> None:
        raise RuntimeError("the device is lost")

    async with serving() as worker:
        monkeypatch.setattr(worker.engine, "try_again", lost)
        gateway = await worker.gateway()
        await gateway.submit(1, [EXPLOSIVE], 5)
        async with asyncio.timeout(LIMIT_S):
            await worker.service.engine_died.wait()


async def test_garbage_ends_the_stream_of_who_sent_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(held=True) as worker:
        neighbour = await worker.gateway()
        await neighbour.submit(1, [5, 6], 7)
        channel: Any = await worker.channel()
        garbage = channel.stream_stream("/textserve.internal.v1.WorkerService/Run")()
        await garbage.write(submission(1, [7], 50).SerializeToString())
        await until(lambda: len(worker.service._connections) == 2)
        await garbage.write(b"\xff\xff\xff")
        async with asyncio.timeout(LIMIT_S):
            while await read_or_end(garbage):
                pass
        await until(lambda: len(worker.service._connections) == 1)
        worker.gate.allow(math.inf)
        await neighbour.until_ended(1)
        neighbour.check(1, [5, 6], 7)
    assert "a gateway sent what is no message" in caplog.text


async def test_an_empty_message_is_ignored() -> None:
    async with serving() as worker:
        gateway = await worker.gateway()
        await gateway.call.write(pb.RunRequest())
        await gateway.submit(1, [5, 6], 7)
        await gateway.until_ended(1)
        gateway.check(1, [5, 6], 7)


async def test_heartbeats_carry_the_step_under_way_and_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "HEARTBEAT_S", 0.01)
    async with serving(held=True) as worker:
        beating = asyncio.create_task(worker.service.beat())
        gateway = await worker.gateway()
        idle = gateway.beats[0]
        assert (idle.incarnation_id, idle.step, idle.step_limit.seconds) == ("me", 0, 0)
        await gateway.submit(1, [5, 6], 3)
        await worker.held()
        await gateway.until(lambda: gateway.beats[-1].step == 1)
        assert gateway.beats[-1].step_limit.seconds == 600
        await gateway.until(lambda: gateway.beats[-1].step_elapsed.nanos > 0)
        worker.gate.allow(math.inf)
        await gateway.until_ended(1)
        await gateway.until(lambda: gateway.beats[-1].step >= 3 and gateway.beats[-1].step_limit.seconds == 0)
        beating.cancel()
