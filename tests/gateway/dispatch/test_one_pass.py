"""However much happens in a turn of the event loop, one pass sees to all of it, in the order that it would have had."""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.in_flight import InFlight
from gateway.domain.errors import ServiceError
from gateway.domain.generation import Generation
from gateway.domain.sequence import Status
from gateway.domain.tenancy import Caller
from gateway.domain.worker_words import Credits, Finish, Start, Step
from gateway.workers.liveness import Liveness
from gateway.workers.run_stream import RunStream, SendBuffer
from tests.fakes import ids
from tests.gateway.dispatch.dispatching import Counting, Watching, dispatcher
from tests.gateway.generations import generation


@pytest.fixture
def dispatching() -> Iterator[Counting]:
    made = dispatcher()
    yield made
    made.close()


_NUMBERS = count()


def stream(dispatching: Dispatcher, limit: int) -> RunStream[InFlight]:
    """The stream of a worker that takes so many rows."""
    made = RunStream(f"w{next(_NUMBERS):04}", dispatching, Liveness("a", 0.0), lambda: 0.0, lambda: False)
    made.take(Credits(limit))
    return made


def end(one: Generation) -> Step:
    return Step([], [], finishes=(Finish(one.sequences[0].sequence_id, Status.LENGTH, ""),))


async def waiting(dispatching: Counting, running: int, queued: int) -> tuple[list[Generation], list[Generation]]:
    """So many that run, on one worker, and as many behind them; what came before is no pass of the test's."""
    stream(dispatching, running)
    made = [generation() for _ in range(running + queued)]
    for one in made:
        dispatching.submit(one)
    await asyncio.sleep(0)
    dispatching.passes = 0
    return made[:running], made[running:]


async def test_a_thousand_that_are_cancelled_at_once_cost_one_pass(dispatching: Counting) -> None:
    running, queued = await waiting(dispatching, 500, 501)
    *cancelled, last = queued

    for one in (*running, *cancelled):
        dispatching.detach(one, Status.CANCELLED)
    assert dispatching.passes == 0
    await asyncio.sleep(0)

    assert dispatching.passes == 1
    assert (last.attempts, dispatching.queued_count, dispatching.running_count) == (1, 0, 1)
    await asyncio.sleep(0)
    assert dispatching.passes == 1


async def test_what_several_workers_tell_in_one_turn_costs_one_pass(dispatching: Counting) -> None:
    streams = [stream(dispatching, 2) for _ in range(8)]
    made = [generation() for _ in range(20)]
    for one in made:
        dispatching.submit(one)
    await asyncio.sleep(0)
    dispatching.passes = 0

    for one in made[:16]:
        (at,) = (each for each in streams if each._in_flight.worker == one.worker)
        at.take(end(one))
    await asyncio.sleep(0)

    assert dispatching.passes == 1
    assert [one.attempts for one in made] == [1] * 20


async def test_tokens_cost_no_pass_while_nothing_waits_and_are_charged_before_what_comes_is_placed(
    dispatching: Counting,
) -> None:
    at, one = stream(dispatching, 1), generation()
    dispatching.submit(one)
    await asyncio.sleep(0)
    name = one.sequences[0].sequence_id
    at.take(Step([name], ids("a"), starts=(Start(name, 0.0, 0.0),)))
    await asyncio.sleep(0)
    dispatching.passes = 0

    for _ in range(8):
        at.take(Step([name], ids("a")))
        await asyncio.sleep(0)
    assert dispatching.passes == 0
    dispatching.submit(generation())

    assert at._in_flight.take_progress() is None
    assert dispatching._scheduler.queue.counter(one.caller) == len(one.prompt_ids) + 9


async def test_what_is_told_while_something_waits_is_seen_to_in_the_next_turn(dispatching: Counting) -> None:
    at, one, other = stream(dispatching, 1), generation(), generation()
    dispatching.submit(one)
    dispatching.submit(other)
    await asyncio.sleep(0)

    at.take(end(one))
    assert other.attempts == 0
    await asyncio.sleep(0)

    assert other.attempts == 1


async def test_admission_is_decided_by_the_queue_as_it_is() -> None:
    admission = Watching()
    dispatching = dispatcher(admission)
    at = stream(dispatching, 2)
    made = [generation() for _ in range(5)]

    for one in made[:4]:
        dispatching.submit(one)
    at.take(end(made[0]))
    dispatching.submit(made[4])

    # Two went to the worker before the fourth came, and a third one before the last, in the room of the first.
    assert admission.asked_with == [(0, 0), (0, 0), (0, 0), (1, 0), (1, 1)]
    dispatching.close()


async def test_what_comes_in_one_turn_is_refused_only_where_the_workers_have_no_room_for_it() -> None:
    dispatching = dispatcher(Watching(max_queued=1))
    stream(dispatching, 3)

    for _ in range(4):
        with dispatching.preparing(Caller()):
            one = generation()
        dispatching.submit(one)
    with pytest.raises(ServiceError, match="QUEUE_FULL"), dispatching.preparing(Caller()):
        pass

    assert (dispatching.running_count, dispatching.queued_count) == (4, 1)
    dispatching.close()


@given(st.lists(st.sampled_from(["submit", "end", "turn"]), max_size=40), st.integers(1, 3))
async def test_equals_are_sent_in_the_order_of_their_arrival_whenever_passes_are_made(
    events: list[str], limit: int
) -> None:
    dispatching = dispatcher()
    at = stream(dispatching, limit)
    made: list[Generation] = []
    for event in events:
        if event == "submit":
            made.append(generation())
            dispatching.submit(made[-1])
        elif event == "end" and (running := [one for one in made if one.worker and not one.finished]):
            at.take(end(running[-1]))
        elif event == "turn":
            await asyncio.sleep(0)
    await asyncio.sleep(0)

    sent = [one.attempts for one in made]
    running_count = sum(one.attempts and not one.finished for one in made)
    assert sent == sorted(sent, reverse=True)
    assert running_count == min(limit, sum(not one.finished for one in made))
    dispatching.close()


async def test_one_that_is_cancelled_in_the_turn_that_it_comes_in_reaches_no_worker(dispatching: Counting) -> None:
    at, one = stream(dispatching, 1), generation()

    dispatching.submit(one)
    dispatching.detach(one, Status.CANCELLED)
    await asyncio.sleep(0)

    assert (one.attempts, at._in_flight.load.outstanding, dispatching.queued_count) == (0, 0, 0)


async def test_progress_of_the_turn_in_which_a_worker_is_lost_is_not_lost_with_it() -> None:
    admission = Watching()
    dispatching = dispatcher(admission)
    at, one, other = stream(dispatching, 2), generation(), generation()
    dispatching.submit(one)
    dispatching.submit(other)
    await asyncio.sleep(0)

    at.take(end(one))
    dispatching.remove(at._in_flight, "it died", died=True)
    dispatching.add(InFlight("other", SendBuffer()))
    dispatching.submit(generation())

    assert admission.asked_with[-1] == (1, 1)
    dispatching.close()


async def test_what_cannot_be_sent_ends_alone(
    dispatching: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at, broken, sound = stream(dispatching, 2), generation(), generation()
    submit = at._buffer.submit

    def refuse(one: Generation) -> None:
        if one is broken:
            raise ValueError("nobody expects this")
        submit(one)

    monkeypatch.setattr(at._buffer, "submit", refuse)
    dispatching.submit(broken)
    dispatching.submit(sound)
    await asyncio.sleep(0)

    assert broken.error is not None
    assert (broken.error.reason, sound.worker, at._in_flight.outstanding) == ("INTERNAL", at._worker, 1)
    assert "nobody expects this" in caplog.text


async def test_nothing_is_seen_to_once_it_is_closed(dispatching: Counting) -> None:
    stream(dispatching, 1)
    await asyncio.sleep(0)
    one = generation()
    dispatching.submit(one)

    dispatching.close()
    await asyncio.sleep(0)

    assert one.attempts == 0
    assert one.finished
