"""What goes to the workers, and what comes from them, keeps its meaning."""

import pytest

from gateway.domain.sequence import SequenceIds, Status, TokenLogprob, has_logprobs
from gateway.domain.worker_words import Finish, PromptLogprobs, Step
from gateway.workers.protocol import read_event, submit
from tests.fake_engine import logprob_of
from tests.fakes import ids
from tests.gateway.generations import generation
from textserve.internal.v1 import worker_pb2 as pb


def read_step(step: pb.Step) -> Step:
    event = read_event(pb.RunResponse(step=step))
    assert isinstance(event, Step)
    return event


def test_ids_are_given_once_and_tell_who_asked_for_log_probabilities() -> None:
    source = SequenceIds()

    given = [source.next(has_logprobs=bool(index % 3)) for index in range(100)]

    assert len(set(given)) == 100
    assert [has_logprobs(sequence_id) for sequence_id in given] == [bool(index % 3) for index in range(100)]


def test_a_generation_is_handed_over_with_what_has_been_generated_and_without_what_has_ended() -> None:
    one = generation(candidate_count=3)
    ended, begun, untouched = one.sequences
    ended.finish(Status.LENGTH)
    for token_id in ids("xy"):
        begun.push(token_id, 1.0)

    message = submit(one).submit

    assert [sequence.sequence_id for sequence in message.sequences] == [begun.sequence_id, untouched.sequence_id]
    assert [list(sequence.output_token_ids) for sequence in message.sequences] == [ids("xy"), []]
    assert [sequence.seed for sequence in message.sequences] == [begun.seed, untouched.seed]
    assert list(message.prompt_token_ids) == one.prompt_ids
    assert not message.generation_config.HasField("seed")


def test_each_log_probability_goes_to_its_token() -> None:
    step = read_step(
        pb.Step(sequence_ids=[2, 5, 4, 7, 5], token_ids=[10, 11, 12, 13, 14], logprobs=map(logprob_of, [11, 13, 14]))
    )

    said = {11: logprob_of(11), 13: logprob_of(13), 14: logprob_of(14)}
    assert [*zip(step.sequence_ids, step.token_ids, step.logprobs, strict=True)] == [
        (sequence_id, token, TokenLogprob(said[token].logprob, said[token].rank) if token in said else None)
        for sequence_id, token in ((2, 10), (5, 11), (4, 12), (7, 13), (5, 14))
    ]


def test_a_step_without_log_probabilities_has_none_for_any_token() -> None:
    step = read_step(pb.Step(sequence_ids=[2, 4], token_ids=[5, 6]))

    assert (list(step.sequence_ids), list(step.token_ids), step.logprobs) == ([2, 4], [5, 6], ())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_log_probabilities_that_do_not_fit_their_tokens_are_refused(count: int) -> None:
    step = pb.Step(sequence_ids=[3, 5], token_ids=[10, 11], logprobs=[logprob_of(0)] * count)

    with pytest.raises(ValueError, match="2 tokens"):
        read_step(step)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE, Status.END_OF_SEQUENCE),
        (pb.SEQUENCE_FINISH_REASON_STOP_TOKEN, Status.STOP_TOKEN),
        (pb.SEQUENCE_FINISH_REASON_LENGTH, Status.LENGTH),
        (pb.SEQUENCE_FINISH_REASON_FAILED, Status.FAILED),
        (99, Status.FAILED),
    ],
)
def test_every_reason_for_an_end_has_a_status(reason: pb.SequenceFinishReason.ValueType, status: Status) -> None:
    step = read_step(pb.Step(finishes=[pb.SequenceFinish(sequence_id=2, reason=reason, error="E")]))

    assert step.finishes == (Finish(2, status, "E"),)


def test_the_score_of_a_beam_search_may_be_zero() -> None:
    (finish,) = read_step(pb.Step(finishes=[pb.SequenceFinish(sequence_id=2, score=0.0)])).finishes

    assert finish.score == 0.0


def test_a_part_of_a_prompt_is_read() -> None:
    part = pb.PromptLogprobs(sequence_id=3, position=4, logprobs=[logprob_of(5, top=2)])

    expected = TokenLogprob(-0.75, 6, ((0, -0.125), (1, -0.25)))
    assert read_event(pb.RunResponse(prompt_logprobs=part)) == PromptLogprobs(3, 4, (expected,))
