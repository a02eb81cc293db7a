"""A session hands tokens to their sequences and keeps account of what is outstanding."""

from gateway.outbox import Outbox
from gateway.sequence import Status
from gateway.session import Session
from gateway.worker_messages import Finish, Start, Step
from tests.fakes import ids
from tests.gateway.generations import generation


def session(limit: int = 8) -> Session:
    made = Session("worker-0", Outbox())
    made.sequence_limit = limit
    return made


def step(sequence_id: int, text: str, finish: Status | None = None, error: str = "") -> Step:
    tokens = ids(text)
    finishes = (Finish(sequence_id, finish, error),) if finish is not None else ()
    return Step([sequence_id] * len(tokens), tokens, finishes=finishes)


async def test_outstanding_is_what_was_submitted_and_has_not_ended() -> None:
    one, other, worker = generation(), generation(candidate_count=2), session()
    worker.submit(one, now=1.0)
    worker.submit(other, now=1.0)
    assert worker.load.outstanding == 3

    worker.step(step(one.sequences[0].sequence_id, "a", Status.LENGTH), now=2.0)
    assert worker.load.outstanding == 2
    worker.drop(other)
    assert worker.load.outstanding == 0


async def test_a_stop_sequence_frees_the_room_in_the_same_step() -> None:
    one, worker = generation("b"), session()
    worker.submit(one, now=1.0)

    worker.step(step(one.sequences[0].sequence_id, "abc"), now=2.0)

    assert one.status is Status.STOP_SEQUENCE
    assert one.output_token_count == 2
    assert worker.load.outstanding == 0


async def test_tokens_of_sequences_that_have_left_are_dropped() -> None:
    one, worker = generation(), session()
    worker.submit(one, now=1.0)
    worker.drop(one)

    worker.step(step(one.sequences[0].sequence_id, "abc", Status.LENGTH), now=2.0)

    assert one.output_token_count == 0
    assert not one.finished


async def test_a_change_is_told_after_each_token_and_end() -> None:
    one, worker = generation(), session()
    changes: list[Status] = []
    one.on_change = lambda: changes.append(one.status)
    worker.submit(one, now=1.0)

    worker.step(step(one.sequences[0].sequence_id, "ab", Status.END_OF_SEQUENCE), now=2.0)

    assert changes == [Status.DECODING, Status.DECODING, Status.END_OF_SEQUENCE]


async def test_the_workers_account_of_wait_and_prefill_reaches_the_timing() -> None:
    one, worker = generation(), session()
    worker.submit(one, now=1.0)
    sequence = one.sequences[0]

    worker.step(Step([sequence.sequence_id], ids("a"), starts=(Start(sequence.sequence_id, 0.5, 0.25),)), now=2.0)

    assert sequence.timeline.timing(2.0).queue_s == 1.5
    assert sequence.timeline.timing(2.0).prefill_s == 0.25


async def test_a_candidate_that_fails_takes_its_generation_with_it() -> None:
    one, worker = generation(candidate_count=2), session()
    worker.submit(one, now=1.0)

    worker.step(step(one.sequences[0].sequence_id, "", Status.FAILED, "NON_FINITE_LOGITS"), now=2.0)

    assert one.error
    assert one.error.reason == "NON_FINITE_LOGITS"
    assert worker.load.outstanding == 0


async def test_a_lost_worker_fails_what_it_ran() -> None:
    one, worker = generation(), session()
    worker.submit(one, now=1.0)

    assert worker.close("it died") == []
    assert one.error
    assert one.error.reason == "WORKER_LOST"
    assert worker.load.outstanding == 0


async def test_a_worker_that_drained_gives_back_what_it_never_began() -> None:
    begun, untouched, worker = generation(), generation(), session()
    worker.submit(begun, now=1.0)
    worker.submit(untouched, now=1.0)
    worker.step(step(begun.sequences[0].sequence_id, "a"), now=2.0)
    worker.draining = True

    assert worker.load.limit == 0
    assert worker.close("it has drained") == [untouched]
    assert untouched.error is None
    assert begun.error
