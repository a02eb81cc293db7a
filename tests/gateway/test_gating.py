"""A dispatcher asks for admission, tells what workers do, and sends nothing that has expired."""

from collections.abc import Iterator

import pytest

from gateway.dispatch.dispatcher import Dispatcher
from gateway.domain.errors import ServiceError, no_worker
from gateway.domain.sequence import Status
from gateway.domain.worker_words import Finish, Start, Step
from gateway.scheduling.outliers import EjectionPolicy, OutlierDetector
from tests.fakes import ids
from tests.gateway.callers import asked
from tests.gateway.dispatch.dispatching import Watching, dispatcher, ends, passed, submitted, worker
from tests.gateway.generations import generation


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission() -> Watching:
    return Watching()


@pytest.fixture
def outliers() -> OutlierDetector:
    return OutlierDetector()


@pytest.fixture
def dispatching(clock: Clock, outliers: OutlierDetector) -> Iterator[Dispatcher]:
    made = dispatcher(outliers=outliers, clock=clock)
    yield made
    made.close()


@pytest.fixture
def gated(clock: Clock, admission: Watching) -> Iterator[Dispatcher]:
    made = dispatcher(admission, clock=clock)
    yield made
    made.close()


async def test_what_expires_in_the_queue_ends_with_its_phase_and_reaches_no_worker(
    gated: Dispatcher, clock: Clock
) -> None:
    in_flight = worker(limit=1)
    gated.add(in_flight)
    running, expiring, patient = asked(), asked(deadline_at=5.0), asked(deadline_at=50.0)
    for one in (running, expiring, patient):
        gated.submit(one)
    await passed(gated)
    clock.now = 5.0

    ends(in_flight, running)
    await passed(gated)

    assert expiring.error is not None
    assert expiring.error.code.name == "DEADLINE_EXCEEDED"
    assert expiring.error.metadata["phase"] == "queue"
    assert expiring.attempts == 0
    assert patient.worker == in_flight.worker
    gated.detach(expiring, Status.DEADLINE)


async def test_what_was_lost_and_expires_is_not_gone_on_with(gated: Dispatcher, clock: Clock) -> None:
    lost, one = worker(), asked(deadline_at=5.0)
    gated.add(lost)
    gated.submit(one)
    await passed(gated)
    gated.remove(lost, "the worker has drained", died=False)
    clock.now = 6.0

    following = worker()
    gated.add(following)
    await passed(gated)

    assert (one.finished, one.attempts, following.load.outstanding) == (True, 1, 0)


async def test_what_is_refused_does_not_wait_and_need_not_be_released(gated: Dispatcher, admission: Watching) -> None:
    gated.add(worker(limit=1))
    submitted(gated, 2)
    admission.refusal = no_worker()

    with pytest.raises(ServiceError, match="NO_WORKER"):
        gated.submit(generation())

    await passed(gated)
    assert admission.asked_with == [(0, 0), (0, 0), (1, 0)]
    assert (gated.queued_count, gated.running_count) == (1, 2)


async def test_what_has_ended_when_it_comes_is_delivered_and_goes_to_no_worker(
    gated: Dispatcher, admission: Watching
) -> None:
    in_flight, one = worker(), generation()
    gated.add(in_flight)
    one.finish(Status.LENGTH)
    changes: list[Status] = []
    one.on_change = lambda: changes.append(one.status)

    gated.submit(one)

    assert changes == [Status.LENGTH]
    assert (admission.asked_with, one.attempts, gated.queued_count, gated.running_count) == ([], 0, 0, 1)
    gated.detach(one, Status.CANCELLED)
    await gated.wait_idle()


async def test_each_first_token_and_each_end_is_told(gated: Dispatcher, admission: Watching, clock: Clock) -> None:
    in_flight = worker()
    gated.add(in_flight)
    (one,) = submitted(gated, 1)
    await passed(gated)
    start = Start(one.sequences[0].sequence_id, 0.0, 0.25)
    in_flight.step(Step([start.sequence_id], ids("a"), starts=(start,)), now=1.0)
    await passed(gated)
    assert (admission.starts, admission.ends) == ([(one, 0.25)], [])

    clock.now = 2.0
    ends(in_flight, one)
    await passed(gated)

    assert (admission.starts, admission.ends) == ([(one, 0.25)], [2.0])


async def test_a_worker_that_fails_far_more_than_the_others_gets_nothing_for_a_while(
    dispatching: Dispatcher, outliers: OutlierDetector, clock: Clock
) -> None:
    bad, good = worker(limit=8), worker(limit=2)
    for in_flight in (bad, good):
        dispatching.add(in_flight)
        outliers.begun(in_flight.worker, 20, clock.now)
    outliers.failed(bad.worker, 20, clock.now)

    made = submitted(dispatching, 3)
    await passed(dispatching)
    assert [one.worker for one in made] == [good.worker, good.worker, ""]

    clock.now += EjectionPolicy().first_s
    await passed(dispatching)
    assert made[2].worker == bad.worker


async def test_a_worker_that_fails_time_and_again_is_ejected(
    dispatching: Dispatcher, outliers: OutlierDetector, clock: Clock
) -> None:
    bad, good = worker(), worker()
    dispatching.add(bad)
    made = submitted(dispatching, 5)
    await passed(dispatching)
    for one in made:
        bad.step(Step([], [], finishes=(Finish(one.sequences[0].sequence_id, Status.FAILED, "NAN_LOGITS"),)), now=0.0)
        await passed(dispatching)
    dispatching.add(good)

    assert outliers.ejected([bad.worker, good.worker], clock.now) == {bad.worker}


async def test_a_lost_worker_is_told(gated: Dispatcher, admission: Watching) -> None:
    lost = worker()
    gated.add(lost)
    gated.remove(lost, "it died", died=True)
    gated.remove(lost, "again", died=True)

    assert admission.loss_count == 1


async def test_the_last_worker_gets_work_however_it_fails(
    dispatching: Dispatcher, outliers: OutlierDetector, clock: Clock
) -> None:
    bad, draining = worker(), worker()
    for in_flight in (bad, draining):
        dispatching.add(in_flight)
    draining.draining = True
    outliers.failed(bad.worker, 20, clock.now)

    (one,) = submitted(dispatching, 1)
    await passed(dispatching)

    assert one.worker == bad.worker


async def test_utilization_is_of_rows_that_run_and_wait(gated: Dispatcher) -> None:
    assert gated.utilization == 0.0
    gated.add(worker(limit=4))
    submitted(gated, 6)
    await passed(gated)

    assert gated.utilization == 1.5
