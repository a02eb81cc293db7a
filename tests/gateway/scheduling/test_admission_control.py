"""The admission: what would wait in vain is refused, and nothing else is."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import Code, ServiceError
from gateway.domain.generation import Generation
from gateway.domain.tenancy import Caller, Priority
from gateway.scheduling.admission_control import MIN_ENDING_S, AdmissionControl, QueueLimits, ThroughputEstimator
from gateway.scheduling.scheduler import Scheduler
from tests.fakes import ids
from tests.gateway.generations import generation

NOW = 1000.0
ANYBODY = Caller()


class Scene:
    """A admission before a scheduler, and what it learns by."""

    def __init__(
        self,
        *,
        max_queued: int = 100,
        max_queued_tokens: int = 1000,
        max_tenant_queued: int = 100,
        max_wait_s: float = inf,
    ) -> None:
        self.scheduler = Scheduler()
        limits = QueueLimits(
            max_queued=max_queued,
            max_queued_tokens=max_queued_tokens,
            max_tenant_queued=max_tenant_queued,
            max_tenant_queued_tokens=1000,
        )
        self.admission = AdmissionControl(
            self.scheduler, limits=limits, estimator=ThroughputEstimator(), max_wait_s=max_wait_s
        )

    def wait(self, count: int, caller: Caller = ANYBODY) -> None:
        for _ in range(count):
            self.scheduler.queue.append(asked(caller=caller))

    def drain(self, gap_s: float, end_count: int = 20) -> None:
        """So many end, one every so often, while something waits."""
        for number in range(end_count):
            self.admission.observe_end(number * gap_s)

    def read(self, seconds: float, prompt: str = "ab") -> None:
        """Some prompts were read, each in so much time."""
        for _ in range(5):
            one = generation(prompt=prompt)
            one.submit("worker", NOW)
            one.sequences[0].push(ids("a")[0], NOW)
            self.admission.observe_start(one, seconds)

    def is_let_in(self, caller: Caller) -> bool:
        """Whether a call may become a generation; it does not."""
        with self.admission.preparing(caller):
            return True

    def refusal(self, one: Generation, now: float = NOW) -> ServiceError | None:
        try:
            self.admission.admit(one, now)
        except ServiceError as error:
            return error
        return None


def asked(remaining_s: float | None = None, *, prompt: str = "ab", caller: Caller = ANYBODY) -> Generation:
    """A generation that has so much time left."""
    one = generation(prompt=prompt)
    one.deadline_at = None if remaining_s is None else NOW + remaining_s
    one.caller = caller
    return one


def test_what_the_queue_lets_come_too_late_is_refused_with_the_estimate() -> None:
    scene = Scene()
    scene.wait(5)
    scene.drain(2.0)

    error = scene.refusal(asked(9.0))

    assert error is not None
    assert (error.code, error.reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE")
    assert error.metadata == {"estimateSeconds": "10.000", "remainingSeconds": "9.000"}
    assert scene.refusal(asked(11.0)) is None


@given(st.floats(0.0, 1000.0), st.integers(0, 50))
def test_nothing_is_refused_on_a_guess(remaining_s: float, waiting_count: int) -> None:
    scene = Scene()
    scene.wait(waiting_count)

    assert scene.refusal(asked(remaining_s)) is None


def test_its_own_prefill_counts_and_its_output_does_not() -> None:
    scene = Scene()
    scene.read(3.0)

    assert scene.refusal(asked(2.9)) is not None
    assert scene.refusal(asked(3.1)) is None


def test_callers_in_a_hurry_are_not_shut_out_for_good_by_what_was_once_slow() -> None:
    scene = Scene()
    scene.read(3.0)

    assert scene.refusal(asked(11.0), NOW + 9.0) is not None
    assert scene.refusal(asked(15.0), NOW + 13.0) is None


def test_queue_and_prefill_count_together() -> None:
    scene = Scene()
    scene.wait(5)
    scene.drain(2.0)
    scene.read(3.0)

    assert scene.refusal(asked(12.0)) is not None
    assert scene.refusal(asked(14.0)) is None


def test_what_has_no_deadline_is_never_too_late() -> None:
    scene = Scene()
    scene.wait(50)
    scene.drain(1000.0)

    assert scene.refusal(asked(None)) is None


def test_what_stands_behind_a_call_does_not_delay_it() -> None:
    scene = Scene()
    scene.wait(50, Caller("a", Priority.BATCH))
    scene.drain(2.0)

    assert scene.refusal(asked(1.0, caller=Caller("a", Priority.INTERACTIVE))) is None
    assert scene.refusal(asked(1.0, caller=Caller("a", Priority.BATCH))) is not None


def test_ends_that_nobody_waits_for_say_nothing_of_the_speed() -> None:
    scene = Scene()
    scene.drain(1000.0)
    scene.wait(5)

    assert scene.refusal(asked(1.0)) is None


def test_what_goes_on_after_a_loss_says_nothing_of_prefills_and_steps() -> None:
    scene = Scene()
    for _ in range(5):
        one = generation()
        one.submit("first", NOW)
        one.sequences[0].push(ids("a")[0], NOW)
        one.requeue()
        one.submit("second", NOW + 100.0)
        one.sequences[0].push(ids("b")[0], NOW + 200.0)
        scene.admission.observe_start(one, 100.0)
        scene.admission.observe_answer(one, NOW + 200.0)

    assert scene.refusal(asked(1.0)) is None
    assert scene.admission.ending_s == MIN_ENDING_S


def test_the_number_of_those_who_wait_is_checked_before_there_is_a_generation() -> None:
    scene = Scene(max_queued=3)
    scene.wait(2)
    assert scene.is_let_in(ANYBODY)
    scene.wait(1)

    with pytest.raises(ServiceError, match="QUEUE_FULL"), scene.admission.preparing(ANYBODY):
        pass


def test_who_is_about_to_wait_counts_as_waiting_until_that_has_come_to_something_or_nothing() -> None:
    scene = Scene(max_queued=3, max_tenant_queued=2)
    flood, other = Caller("flood"), Caller("other")
    with scene.admission.preparing(flood), scene.admission.preparing(flood):
        with pytest.raises(ServiceError, match="TENANT_QUOTA"), scene.admission.preparing(flood):
            pass
        assert scene.refusal(asked(caller=other)) is None
        with scene.admission.preparing(other), pytest.raises(ServiceError, match="QUEUE_FULL"):
            scene.admission.admit(asked(caller=Caller("third")), NOW)
        with pytest.raises(ZeroDivisionError), scene.admission.preparing(other):
            raise ZeroDivisionError

    assert not scene.admission._preparing
    scene.wait(1)
    assert scene.is_let_in(flood)


def test_a_flood_of_one_tenant_leaves_room_for_the_others() -> None:
    scene = Scene(max_tenant_queued=3)
    flood, other = Caller("flood"), Caller("other")
    scene.wait(3, flood)

    with pytest.raises(ServiceError, match="TENANT_QUOTA"), scene.admission.preparing(flood):
        pass
    assert scene.is_let_in(other)
    assert scene.refusal(asked(caller=other)) is None


def test_a_long_prompt_is_refused_where_a_short_one_is_taken() -> None:
    scene = Scene(max_queued_tokens=20)
    scene.wait(5)

    error = scene.refusal(asked(prompt="x" * 11))

    assert len(ids("x" * 11)) == 11
    assert error is not None
    assert error.reason == "QUEUE_FULL"
    assert scene.refusal(asked(prompt="x" * 10)) is None


def test_output_that_a_caller_holds_counts_with_its_prompt() -> None:
    scene = Scene(max_queued_tokens=20)
    scene.wait(5)

    assert scene.refusal(held("x" * 8)) is None
    assert scene.refusal(held("x" * 9)) is not None
    scene.scheduler.queue.append(held("x" * 8))
    assert scene.refusal(asked(prompt="x")) is not None


def held(output: str) -> Generation:
    """One with a prompt of two tokens, behind output that its caller holds."""
    one = asked()
    for token_id in ids(output):
        one.sequences[0].replay(token_id)
    one.sequences[0].hold_as_taken()
    return one


def test_a_refusal_says_when_what_waits_is_worked_off() -> None:
    scene = Scene(max_queued=5)
    scene.wait(5)
    scene.drain(0.5)

    error = scene.refusal(asked())

    assert error is not None
    assert error.retry_after_s == pytest.approx(2.5, abs=0.002)


def test_a_call_is_ended_two_steps_before_its_deadline_but_never_too_shortly_before() -> None:
    admission = Scene().admission
    assert admission.ending_s == MIN_ENDING_S
    answered(admission, step_s=0.01)
    assert admission.ending_s == MIN_ENDING_S
    for _ in range(300):
        answered(admission, step_s=0.5)
    assert admission.ending_s == pytest.approx(1.0, rel=0.01)


def answered(admission: AdmissionControl, *, step_s: float) -> None:
    """A generation of five tokens has ended."""
    one = generation()
    for number, token_id in enumerate(ids("abcde")):
        one.sequences[0].push(token_id, NOW + number * step_s)
    admission.observe_answer(one, NOW + 100.0)


def test_beams_say_nothing_of_the_step_because_all_their_tokens_come_at_once() -> None:
    admission = Scene().admission
    for _ in range(300):
        answered(admission, step_s=0.5)
    for _ in range(300):
        search = generation(num_beams=2)
        for token_id in ids("abcde"):
            search.sequences[0].push(token_id, NOW)
        admission.observe_answer(search, NOW)

    assert admission.ending_s == pytest.approx(1.0, rel=0.01)


def test_answers_of_one_token_or_none_say_nothing_of_the_step() -> None:
    admission, one = Scene().admission, generation()
    admission.observe_answer(generation(), NOW)
    one.sequences[0].push(ids("a")[0], NOW)
    admission.observe_answer(one, NOW + 60.0)

    assert admission.ending_s == MIN_ENDING_S


def test_what_would_wait_for_too_long_is_refused_whatever_its_deadline() -> None:
    scene = Scene(max_wait_s=4.0)
    scene.wait(7)
    scene.drain(gap_s=0.5)
    assert scene.refusal(asked()) is None

    scene.wait(2)
    error = scene.refusal(asked())

    assert error is not None
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert error.metadata == {"estimateSeconds": "4.500", "limitSeconds": "4"}
    assert error.retry_after_s == pytest.approx(4.5)


def test_batch_work_may_wait_for_long() -> None:
    scene = Scene(max_wait_s=4.0)
    scene.wait(20)
    scene.drain(gap_s=0.5)
    assert scene.refusal(asked()) is not None
    assert scene.refusal(asked(caller=Caller("", Priority.BATCH))) is None


def test_a_prompt_that_alone_takes_longer_than_anything_may_wait_is_taken_where_nothing_waits() -> None:
    scene = Scene(max_wait_s=4.0)
    scene.read(9.0)
    assert scene.refusal(asked()) is None
