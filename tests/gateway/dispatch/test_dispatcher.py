"""The dispatcher, where it needs no connection to be seen at work."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.in_flight import InFlight
from gateway.domain.errors import ServiceError
from gateway.domain.sequence import Status
from gateway.domain.tenancy import Caller
from gateway.domain.worker_words import Credits, Heartbeat, Step
from gateway.workers.liveness import Liveness
from gateway.workers.run_stream import RunStream, SendBuffer
from tests.fakes import ids
from tests.gateway.callers import asked, batch, interactive
from tests.gateway.dispatch.dispatching import dispatcher, ends, passed, says, submitted, worker
from tests.gateway.generations import generation
from tests.gateway.serving import until


@pytest.fixture
def dispatching() -> Iterator[Dispatcher]:
    made = dispatcher()
    yield made
    made.close()


async def test_what_a_lost_worker_leaves_goes_before_what_waits_oldest_first(dispatching: Dispatcher) -> None:
    lost = worker(limit=3)
    dispatching.add(lost)
    running = submitted(dispatching, 3)
    waiting = submitted(dispatching, 1)
    await passed(dispatching)
    says(lost, running[1], "xy")

    assert dispatching.remove(lost, "it died", died=True) == running

    assert dispatching.queued_count == 4
    assert {one.status for one in running} == {Status.QUEUED}
    order = [one.worker for one in (*running, *waiting)]
    assert order == [""] * 4
    following = [worker(limit=1) for _ in range(4)]
    for in_flight in following:
        dispatching.add(in_flight)
    await until(lambda: bool(waiting[0].worker))
    assert [one.worker for one in (*running, *waiting)] == [in_flight.worker for in_flight in following]
    assert running[1].sequences[0].output_token_ids == ids("xy")


async def test_a_drained_workers_unfinished_are_no_suspects(dispatching: Dispatcher) -> None:
    one, drained = generation(), [worker() for _ in range(3)]
    dispatching.add(drained[0])
    dispatching.submit(one)
    await passed(dispatching)
    for in_flight, following in zip(drained, [*drained[1:], worker()], strict=True):
        in_flight.draining = True
        dispatching.remove(in_flight, "the worker has drained", died=False)
        dispatching.add(following)
        await passed(dispatching)

    assert one.deaths == 0
    assert one.status is Status.PREFILLING


async def test_what_ends_its_worker_alone_ends_and_its_companions_go_on(dispatching: Dispatcher) -> None:
    first, second, alone, last = (worker() for _ in range(4))
    dispatching.add(first)
    poison, *innocent = submitted(dispatching, 3)
    await passed(dispatching)
    for dying, following in pairwise([first, second, alone]):
        dispatching.remove(dying, "it died", died=True)
        dispatching.add(following)
        await until(lambda in_flight=following: poison.worker == in_flight.worker)  # type: ignore[misc]
    assert alone.load.outstanding == 1

    dispatching.remove(alone, "it died", died=True)

    assert poison.error is not None
    assert poison.error.reason == "POISON_REQUEST"
    dispatching.add(last)
    for one in innocent:
        await until(lambda one=one: one.worker == last.worker)  # type: ignore[misc]
        assert last.load.outstanding == 1
        ends(last, one)
        await passed(dispatching)
    assert [one.status for one in innocent] == [Status.LENGTH] * 2


async def test_one_that_comes_back_under_its_name_gives_back_what_the_former_one_had(
    dispatching: Dispatcher,
) -> None:
    former = worker()
    dispatching.add(former)
    (one,) = submitted(dispatching, 1)
    await passed(dispatching)
    later = InFlight(former.worker, SendBuffer())
    later.row_limit = 4

    dispatching.add(later)
    await until(lambda: later.load.outstanding == 1)
    says(former, one, "late")

    assert (former.load.outstanding, later.load.outstanding) == (0, 1)
    assert one.output_token_count == 0


async def test_what_had_begun_is_lost_and_what_had_not_is_refused_when_no_worker_comes() -> None:
    dispatching, lost = dispatcher(worker_wait_s=0.0), worker(limit=2)
    dispatching.add(lost)
    begun, prefilling, waiting = submitted(dispatching, 3)
    await passed(dispatching)
    says(lost, begun, "xy")

    dispatching.remove(lost, "it died", died=True)
    await until(lambda: waiting.finished)

    reasons = [one.error and one.error.reason for one in (begun, prefilling, waiting)]
    assert reasons == ["WORKER_LOST", "WORKER_LOST", "NO_WORKER"]
    delta = begun.sequences[0].take()
    assert delta is not None
    assert delta.text == "xy"
    assert dispatching.queued_count == 0
    with pytest.raises(ServiceError, match="NO_WORKER"):
        dispatching.check_open()


async def test_workers_that_die_together_count_as_one_death(dispatching: Dispatcher) -> None:
    one, other, third = worker(), worker(), worker()
    dispatching.add(one)
    dispatching.add(other)
    running = submitted(dispatching, 4)
    await passed(dispatching)

    dispatching.remove(one, "it died", died=True)
    dispatching.remove(other, "it died", died=True)
    dispatching.add(third)

    await until(lambda: third.load.outstanding == 4)
    assert {each.deaths for each in running} == {1}


async def test_what_is_cancelled_while_it_waits_for_a_worker_is_gone(dispatching: Dispatcher) -> None:
    lost = worker()
    dispatching.add(lost)
    (one,) = submitted(dispatching, 1)
    await passed(dispatching)
    dispatching.remove(lost, "it died", died=True)

    dispatching.detach(one, Status.CANCELLED)

    assert dispatching.queued_count == 0
    assert one.status is Status.CANCELLED
    assert dispatching.running_count == 0


async def test_the_demand_that_a_worker_hears_of_is_in_rows(dispatching: Dispatcher) -> None:
    in_flight = worker(limit=2)
    dispatching.add(in_flight)
    for _ in range(3):
        dispatching.submit(generation(candidate_count=2))
    await passed(dispatching)
    requests = in_flight.buffer.requests()

    kinds = [await anext(requests) for _ in range(2)]

    assert kinds[1].demand.queued_count == 4


async def test_a_worker_whose_engine_hangs_is_given_no_work(dispatching: Dispatcher) -> None:
    stream = RunStream("worker", dispatching, Liveness("a", 0.0), lambda: 0.0, lambda: False)

    stream.take(Heartbeat(incarnation_id="a", step=5, step_limit_s=3.0, step_elapsed_s=60.0))
    stream.take(Credits(4))
    assert dispatching.worker_count == 0

    stream.take(Heartbeat(incarnation_id="a", step=5, step_limit_s=0.0, step_elapsed_s=0.0))
    assert dispatching.worker_count == 1, "its credits hold, and are not said again"


async def test_an_interactive_one_is_sent_at_once_and_the_batch_one_goes_on_later(dispatching: Dispatcher) -> None:
    in_flight, moved, urgent = worker(limit=1), batch(), interactive()
    dispatching.add(in_flight)
    dispatching.submit(moved)
    await passed(dispatching)
    says(in_flight, moved, "xy")
    late = moved.sequences[0].sequence_id

    dispatching.submit(urgent)
    await passed(dispatching)

    assert (urgent.worker, moved.worker, moved.status) == (in_flight.worker, "", Status.QUEUED)
    in_flight.step(Step([late], ids("z")), now=0.0)
    ends(in_flight, urgent)
    await passed(dispatching)
    assert moved.worker == in_flight.worker
    says(in_flight, moved, "z")
    assert moved.sequences[0].output_token_ids == ids("xyz")
    assert (in_flight.load.outstanding, dispatching.queued_count, dispatching.running_count) == (1, 0, 2)


async def test_what_made_way_can_be_released_while_it_waits(dispatching: Dispatcher) -> None:
    in_flight, moved, urgent = worker(limit=1), batch(), interactive()
    dispatching.add(in_flight)
    for one in (moved, urgent):
        dispatching.submit(one)
    await passed(dispatching)

    dispatching.detach(moved, Status.CANCELLED)
    ends(in_flight, urgent)
    await passed(dispatching)

    assert (dispatching.queued_count, in_flight.load.outstanding, moved.status) == (0, 0, Status.CANCELLED)


async def test_a_tenants_output_is_held_against_its_next_request(dispatching: Dispatcher) -> None:
    in_flight = worker(limit=2)
    dispatching.add(in_flight)
    talkative, terse = (asked(tenant) for tenant in ("talkative", "terse"))
    for one in (talkative, terse):
        dispatching.submit(one)
    next_talkative, next_terse = (asked(tenant) for tenant in ("talkative", "terse"))
    for one in (next_talkative, next_terse):
        dispatching.submit(one)
    await passed(dispatching)
    says(in_flight, talkative, "a" * 50)
    says(in_flight, terse, "a")

    await passed(dispatching)
    ends(in_flight, talkative)
    await passed(dispatching)

    assert (next_terse.worker, next_talkative.worker) == (in_flight.worker, "")
    assert next_terse.caller == Caller("terse")


async def test_what_is_ended_runs_until_it_is_released_but_takes_no_room(dispatching: Dispatcher) -> None:
    in_flight, told = worker(limit=1), []
    dispatching.add(in_flight)
    one, following = submitted(dispatching, 2)
    await passed(dispatching)
    one.on_change = lambda: told.append(one.status)

    dispatching.finish(one, Status.TIME_LIMIT)
    assert told == [Status.TIME_LIMIT]
    await passed(dispatching)

    assert following.worker == in_flight.worker
    assert dispatching.running_count == 2
    dispatching.detach(one, Status.CANCELLED)
    assert (one.status, dispatching.running_count) == (Status.TIME_LIMIT, 1)


async def test_nothing_is_sent_and_nothing_goes_on_once_it_is_closed(dispatching: Dispatcher) -> None:
    in_flight = worker(limit=1)
    dispatching.add(in_flight)
    running, waiting = submitted(dispatching, 2)
    await passed(dispatching)

    dispatching.close()
    dispatching.remove(in_flight, "it ends with its gateway", died=True)
    await passed(dispatching)

    assert (running.attempts, waiting.attempts) == (1, 0)
    assert dispatching._settling is None


async def test_no_worker_is_awaited_any_more_once_it_is_closed(dispatching: Dispatcher) -> None:
    in_flight = worker()
    dispatching.add(in_flight)

    dispatching.close()
    dispatching.remove(in_flight, "it ends with its gateway", died=False)

    with pytest.raises(ServiceError, match="NO_WORKER"):
        dispatching.check_open()
