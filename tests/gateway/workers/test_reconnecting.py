"""A caller that lost its call asks again, with what it holds or by the name it gave: nothing is made twice."""

import asyncio

import pytest
from grpc import StatusCode

from client import AsyncClient
from client._transcript import Transcript
from client.types.events import Delta, Started
from gateway.config import Config
from tests.fakes import FakeWorker, ids
from tests.gateway.losing import asked, running, runs, told, undisturbed
from tests.gateway.serving import Served, failing, request, serving, until
from textserve.v1 import generation_pb2 as pb

PROMPTS = ("abc", "aé", "🚀")


def resuming(lost: pb.GenerateRequest, token_ids: list[int]) -> pb.GenerateRequest:
    """The same request, behind what its caller holds."""
    again = pb.GenerateRequest()
    again.CopyFrom(lost)
    again.resume_from.candidates.add(token_ids=token_ids)
    return again


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("held_count", [1, 2, 5, 8])
async def test_another_gateway_goes_on_behind_what_the_caller_holds(prompt: str, held_count: int) -> None:
    lost = asked(prompt)
    (expected,) = await undisturbed(lost)
    async with serving(FakeWorker()) as served:
        (stream,) = await running(served, lost)
        served.worker.step(held_count)
        got: list[pb.StreamGenerateResponse] = []
        while len(told(got).candidates[0].token_ids) < held_count:
            got.append(await anext(aiter(stream)))
        stream.cancel()
    held = list(told(got).candidates[0].token_ids)

    async with serving(FakeWorker(runs_freely=True)) as served:
        got += await served.caller.stream(resuming(lost, held))
        (submit,) = served.worker.submits

    assert told(got) == expected
    assert list(submit.sequences[0].output_token_ids) == held
    assert not submit.prompt_logprobs
    assert got[-1].finished.receipt.resumed


async def test_the_client_goes_on_with_what_a_lost_stream_has_told() -> None:
    (expected,) = await undisturbed(asked("abc"))
    async with (
        serving(FakeWorker()) as served,
        AsyncClient(served.gateway.address) as client,
    ):
        lost = client.stream("abc", max_new_tokens=9, token_ids=True)
        await runs(served.worker, 1)
        served.worker.step(4)
        text = ""
        while len(lost.held_token_ids.get(0, ())) < 4:
            text += (await anext(lost)).text
        await lost.close()

    seed, held = lost.started.seed, lost.held_token_ids
    async with (
        serving(FakeWorker(runs_freely=True)) as served,
        AsyncClient(served.gateway.address) as client,
        client.stream("abc", max_new_tokens=9, seed=seed, resume_from=held) as rest,
    ):
        async for delta in rest:
            text += delta.text

    assert text == expected.candidates[0].text
    assert rest.result.resumed


async def test_a_whole_answer_has_what_follows_and_counts_all() -> None:
    lost = asked("abc")
    async with serving(FakeWorker(runs_freely=True)) as served:
        answer = await served.caller.generate(resuming(lost, ids("abca")))

    assert answer.candidates[0].text == "bcabc"
    assert answer.usage.output_token_count == 9


@pytest.mark.parametrize("count", [1, 3])
async def test_a_prompt_that_was_echoed_to_a_caller_does_not_come_twice(count: int) -> None:
    config = pb.GenerationConfig(max_new_tokens=4, temperature=1.0, seed=1, num_return_sequences=count)
    output = pb.OutputOptions(echo=True, token_ids=True)
    message = pb.GenerateRequest(text="ab", generation_config=config, output_options=output)
    async with serving(FakeWorker(runs_freely=True)) as served:
        for held in range(count + 1):
            message.resume_from.CopyFrom(pb.ResumeFrom())
            for index in range(held):
                message.resume_from.candidates.add(candidate_index=index)
            texts = [""] * count
            for each in await served.caller.stream(message):
                texts[each.delta.candidate_index] += each.delta.text
            whole = await served.caller.generate(message)

            assert texts == ["abab"] * held + ["ababab"] * (count - held)
            assert [each.text for each in whole.candidates] == texts
            assert not whole.receipt.resumed


async def test_the_client_goes_on_behind_an_echo_alone() -> None:
    transcript = Transcript()
    transcript.receive(Started("tutor", 1, 2))
    transcript.receive(Delta("ab"))
    assert transcript.held_token_ids == {0: ()}
    async with (
        serving(FakeWorker(runs_freely=True)) as served,
        AsyncClient(served.gateway.address) as client,
        client.stream(
            "ab", max_new_tokens=4, echo=True, token_ids=True, seed=1, resume_from=transcript.held_token_ids
        ) as rest,
    ):
        assert "".join([delta.text async for delta in rest]) == "abab"


async def test_a_caller_that_holds_everything_is_told_the_end_and_no_worker_is_asked() -> None:
    async with serving(FakeWorker()) as served:
        messages = await served.caller.stream(resuming(asked("abc"), ids("abcabcabc")))

        assert [message.WhichOneof("event") for message in messages] == ["started", "finished"]
        assert messages[-1].finished.finish_reason == pb.FINISH_REASON_LENGTH
        assert messages[-1].finished.usage.output_token_count == 9
        assert served.worker.submits == []
        await served.nothing_runs()


async def test_an_echo_is_not_delivered_again() -> None:
    lost = asked("abc")
    lost.output_options.echo = True
    async with serving(FakeWorker(runs_freely=True)) as served:
        messages = await served.caller.stream(resuming(lost, ids("ab")))

    assert told(messages).candidates[0].text == "cabcabc"


async def test_a_resumption_of_what_cannot_be_is_refused_with_its_fields() -> None:
    async with serving(FakeWorker()) as served:
        too_long = await failing(served.caller.generate(resuming(asked("abc"), ids("abcabcabca"))))
        no_seed = await failing(served.caller.generate(resuming(request("abc", max_new_tokens=9), ids("a"))))
        stopped = asked("abc")
        stopped.stop_sequences.append("c")
        behind = await failing(served.caller.generate(resuming(stopped, ids("abca"))))

    assert too_long.fields == {"resume_from.candidates[0].token_ids"}
    assert no_seed.fields == {"generation_config.seed"}
    assert behind.fields == {"resume_from.candidates[0].token_ids[3]"}


def named(text: str = "ab", name: str = "order-7") -> pb.GenerateRequest:
    one = request(text, max_new_tokens=3)
    one.request_id = name
    return one


async def joined(served: Served, *calls: pb.GenerateRequest) -> list["asyncio.Task[pb.GenerateResponse]"]:
    """Calls that have all reached the gateway, which runs one generation for them."""
    tasks = [asyncio.create_task(served.caller.generate(each)) for each in calls]
    waiting = served.gateway.generation._deduplication._running
    await until(lambda: sum(call.waiter_count for call in waiting.values()) == len(calls))
    return tasks


async def test_calls_of_one_name_are_one_generation_and_a_later_one_gets_its_answer() -> None:
    async with serving(FakeWorker()) as served:
        calls = await joined(served, named(), named())
        await runs(served.worker, 1)
        served.worker.step(3)

        first, second = [await call for call in calls]
        later = await served.caller.generate(named())
        assert first == second == later
        assert len(served.worker.submits) == 1
        await served.nothing_runs()


async def test_the_first_caller_may_leave_and_the_second_gets_its_answer() -> None:
    async with serving(FakeWorker()) as served:
        first, second = await joined(served, named(), named())
        await runs(served.worker, 1)
        first.cancel()
        waiting = served.gateway.generation._deduplication._running
        await until(lambda: [call.waiter_count for call in waiting.values()] == [1])
        served.worker.step(3)

        assert (await second).candidates[0].text == "aba"
        await served.nothing_runs()


async def test_when_all_callers_have_left_the_row_is_free() -> None:
    async with serving(FakeWorker()) as served:
        calls = await joined(served, named(), named())
        await runs(served.worker, 1)
        for call in calls:
            call.cancel()

        await served.nothing_runs()


async def test_another_request_under_the_same_name_is_refused_but_not_of_another_tenant() -> None:
    config = Config(listen="127.0.0.1:0", trust_tenant_metadata=True)
    async with serving(FakeWorker(runs_freely=True), config=config) as served:
        await served.caller.generate(named("ab"))

        failure = await failing(served.caller.generate(named("cd")))
        other = await served.caller.generation.Generate(named("cd"), metadata=(("textserve-tenant", "other"),))

    assert (failure.code, failure.reason) == (StatusCode.ALREADY_EXISTS, "REQUEST_ID_TAKEN")
    assert failure.fields == {"request_id"}
    assert other.candidates[0].text == "cdc"
