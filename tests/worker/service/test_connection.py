"""One gateway's stream: what it gets, in which order, and when it ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from textserve.internal.v1 import worker_pb2 as pb
from worker.domain.outcome import TokenLogprob
from worker.domain.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence, Status
from worker.engine.engine_thread import Emission, PromptReport
from worker.service.connection import Connection
from worker.service.messages import failure


def connection(*sequence_ids: int) -> Connection:
    """Returns a connection that has submitted the given sequences."""
    result = Connection(owner=1)
    for number in sequence_ids:
        result.add([root(number)])
    return result


def root(*sequence_ids: int) -> Root:
    return Root([5], [Sequence(number, [5], SamplingParameters(max_new_tokens=9)) for number in sequence_ids])


def beam_root(num_beams: int, *sequence_ids: int) -> Root:
    candidates = root(*sequence_ids).sequences
    return Root([5], Beams(num_beams, 1.0, EarlyStopping.HEURISTIC, candidates).rows())


def emission(sequence_id: int, token: int, finish: Status | None = None) -> Emission:
    return Emission(owner=1, sequence_id=sequence_id, tokens=(token,), finish=finish)


async def rest(messages: AsyncIterator[pb.RunResponse]) -> list[pb.RunResponse]:
    return [message async for message in messages]


def kinds(messages: list[pb.RunResponse]) -> list[str | None]:
    return [message.WhichOneof("message") for message in messages]


async def test_steps_that_a_slow_gateway_has_not_taken_are_merged_in_order() -> None:
    slow = connection(1, 2)
    slow.deliver(7, [emission(1, 10), emission(2, 20)])
    slow.deliver(8, [emission(1, 11), emission(2, 21, Status.FINISHED_EOS)])
    slow.deliver(9, [emission(1, 12)])
    slow.close()
    (message,) = await rest(slow.messages())
    step = message.step
    assert step.step == 9
    assert list(zip(step.sequence_ids, step.token_ids, strict=True)) == [(1, 10), (2, 20), (1, 11), (2, 21), (1, 12)]
    assert [finish.sequence_id for finish in step.finishes] == [2]


async def test_a_gateway_that_keeps_up_gets_each_step_by_itself() -> None:
    quick = connection(1)
    messages = quick.messages()
    for step in range(3):
        quick.deliver(step, [emission(1, step)])
        assert (await anext(messages)).step == pb.Step(step=step, sequence_ids=[1], token_ids=[step])


async def test_tokens_of_sequences_that_were_cancelled_are_dropped() -> None:
    one = connection(1, 2)
    one.drop([1])
    one.deliver(3, [emission(1, 10, Status.FINISHED_EOS), emission(2, 20)])
    one.close()
    (message,) = await rest(one.messages())
    assert message.step == pb.Step(step=3, sequence_ids=[2], token_ids=[20])


async def test_a_step_without_anything_for_this_gateway_is_not_sent() -> None:
    one = connection()
    one.deliver(3, [emission(1, 10)])
    one.close()
    assert await rest(one.messages()) == []


def test_an_ended_sequence_is_forgotten_and_counts_no_more_as_demand() -> None:
    one = connection(1, 2)
    one.queued_count = 5
    assert one.demand == 7
    one.deliver(3, [emission(1, 10, Status.FINISHED_LENGTH)])
    assert list(one.sequences) == [2]
    assert one.demand == 6


def test_a_beam_search_counts_as_its_beams_until_all_its_candidates_have_ended() -> None:
    one = connection()
    one.add([beam_root(5, 1, 2)])
    assert one.demand == 5
    one.deliver(3, [emission(1, 10, Status.FINISHED_LENGTH), emission(2, 10, Status.FINISHED_LENGTH)])
    assert one.demand == 0


@pytest.mark.parametrize("roots", [[root(1)], [root(3), root(2)], [root(4, 4)]], ids=["used", "second", "twice"])
def test_a_sequence_id_that_is_in_use_is_refused_and_changes_nothing(roots: list[Root]) -> None:
    one = connection(1, 2)
    with pytest.raises(ValueError, match="is in use"):
        one.add(roots)
    assert list(one.sequences) == [1, 2]


async def test_prompt_logprobs_come_before_the_tokens_and_only_for_what_is_here() -> None:
    one = connection(1)
    reports = [PromptReport(1, number, 1, [TokenLogprob(-0.5, 2, ((7, -0.25),))]) for number in (1, 9)]
    one.deliver(3, [emission(1, 10)], reports)
    one.close()
    told, step = await rest(one.messages())
    entry = pb.TokenLogprobs(logprob=-0.5, rank=2, top_token_ids=[7], top_logprobs=[-0.25])
    assert told.prompt_logprobs == pb.PromptLogprobs(sequence_id=1, position=1, logprobs=[entry])
    assert kinds([step]) == ["step"]


async def test_the_grant_is_sent_only_when_it_changes() -> None:
    one = connection()
    messages = one.messages()
    sent = []
    for limit in (4, 4, 2, 2, 4):
        changed = limit != one.sequence_limit
        one.grant(limit)
        if changed:
            sent.append((await anext(messages)).credits.sequence_limit)
    one.close()
    assert sent == [4, 2, 4]
    assert await rest(messages) == []


async def test_of_grants_and_heartbeats_that_a_gateway_does_not_read_only_the_newest_wait() -> None:
    one = connection()
    for number in range(1, 500):
        one.grant(number)
        one.send(pb.RunResponse(heartbeat=pb.Heartbeat(step=number)))
    one.close()
    grant, beat = await rest(one.messages())
    assert (grant.credits.sequence_limit, beat.heartbeat.step) == (499, 499)


async def test_closing_flushes_everything_and_then_ends() -> None:
    one = connection(1)
    one.send(pb.RunResponse(draining=pb.Draining()))
    one.deliver(3, [emission(1, 10)])
    one.finish(failure(8, "INVALID_SUBMISSION"))
    one.close()
    messages = await rest(one.messages())
    assert kinds(messages) == ["draining", "step"]
    assert [finish.sequence_id for finish in messages[1].step.finishes] == [8]


async def test_what_is_delivered_while_the_last_messages_are_taken_is_flushed_too() -> None:
    one = connection(1)
    one.send(pb.RunResponse(draining=pb.Draining()))
    one.close()
    messages = one.messages()
    assert kinds([await anext(messages)]) == ["draining"]
    one.deliver(4, [emission(1, 11)])
    assert kinds(await rest(messages)) == ["step"]


async def test_without_news_a_reader_waits_until_there_is_some() -> None:
    one = connection(1)
    reader = asyncio.ensure_future(anext(one.messages()))
    done, _ = await asyncio.wait({reader}, timeout=0.01)
    assert not done
    one.deliver(3, [emission(1, 10)])
    assert kinds([await reader]) == ["step"]


@pytest.mark.parametrize("count", [1, 500])
async def test_what_waits_for_a_gateway_that_reads_nothing_is_one_message_whatever_the_steps(count: int) -> None:
    one = connection(1)
    for step in range(count):
        one.deliver(step, [emission(1, step)])
    one.close()
    (message,) = await rest(one.messages())
    assert list(message.step.token_ids) == list(range(count))
