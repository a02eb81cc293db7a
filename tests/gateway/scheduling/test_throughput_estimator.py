"""What is learned of the workers' speed, and what is not: calls are refused by it."""

import heapq
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission_control import (
    MAX_RETRY_S,
    MIN_RETRY_S,
    UNKNOWN_RETRY_S,
    DecayedRatio,
    ThroughputEstimator,
)
from gateway.scheduling.queue import QueuedWork

BACKLOGS = st.builds(QueuedWork, st.integers(1, 2000), st.integers(0, 10**6), st.integers(0, 4000))
SECONDS = st.floats(0.001, 100.0)
ENOUGH = 8
NOW = 1000.0


def drained(gap_s: float, *, end_count: int = 20) -> ThroughputEstimator:
    """A speed that has seen one generation end every so often, while others waited."""
    speed = ThroughputEstimator()
    for number in range(end_count):
        speed.observe_end(number * gap_s, has_waiting=True)
    return speed


def waiting(count: int) -> QueuedWork:
    return QueuedWork(count, count * 10, count)


@given(BACKLOGS, st.integers(1, 10**6))
def test_nothing_is_estimated_before_anything_is_known(backlog: QueuedWork, prompt_tokens: int) -> None:
    assert ThroughputEstimator().wait_s(backlog, prompt_tokens, NOW) is None
    assert ThroughputEstimator().retry_after_s(backlog) == UNKNOWN_RETRY_S


@given(st.lists(st.tuples(SECONDS, st.booleans()), max_size=60), BACKLOGS)
def test_how_fast_work_comes_is_not_taken_for_how_fast_it_is_done(
    ends: list[tuple[float, bool]], some: QueuedWork
) -> None:
    """Only between two ends in turn that somebody waited for is everything busy."""
    speed, now = ThroughputEstimator(), 0.0
    for number, (gap_s, has_waiting) in enumerate(ends):
        now += gap_s
        speed.observe_end(now, has_waiting=has_waiting and number % 2 == 0)

    assert speed.drain_s(some) is None


def test_some_ends_are_no_measurement_yet() -> None:
    assert drained(1.0, end_count=ENOUGH).drain_s(waiting(3)) is None
    assert drained(1.0, end_count=ENOUGH + 1).drain_s(waiting(3)) == pytest.approx(3.0)


@given(st.floats(0.001, 10.0), BACKLOGS)
def test_a_steady_drain_is_known_exactly(gap_s: float, backlog: QueuedWork) -> None:
    assert drained(gap_s).wait_s(backlog, 5, NOW) == pytest.approx(backlog.generation_count * gap_s)


@given(st.floats(0.001, 10.0), BACKLOGS, st.floats(0.01, 100.0))
def test_estimates_scale_with_time(gap_s: float, backlog: QueuedWork, factor: float) -> None:
    slow, fast = drained(gap_s * factor), drained(gap_s)

    assert slow.drain_s(backlog) == pytest.approx((fast.drain_s(backlog) or 0.0) * factor)


def test_the_time_without_a_lost_worker_is_not_taken_for_work() -> None:
    speed = drained(0.1, end_count=200)
    speed.observe_loss()
    for number in range(10):
        speed.observe_end(1000.0 + number * 0.1, has_waiting=True)

    assert speed.drain_s(waiting(10)) == pytest.approx(1.0)


def test_a_change_of_speed_is_learned() -> None:
    speed = drained(1.0, end_count=200)
    for number in range(600):
        speed.observe_end(199.0 + number * 0.1, has_waiting=True)

    assert speed.drain_s(waiting(10)) == pytest.approx(1.0, rel=0.1)


@dataclass(frozen=True)
class Guess:
    estimate_s: float
    actual_s: float


def queued(row_count: int, service_s: float, gaps: list[float]) -> list[Guess]:
    """First come, first served by `row_count` rows for `service_s` each: what is estimated, and how long it was."""
    speed, guesses = ThroughputEstimator(), list[Guess]()
    running, line = list[float](), deque[tuple[float, float | None]]()
    now = 0.0

    def end_until(instant: float) -> None:
        while running and running[0] <= instant:
            ended_at = heapq.heappop(running)
            speed.observe_end(ended_at, has_waiting=bool(line))
            if line:
                arrived_at, estimate_s = line.popleft()
                if estimate_s is not None:
                    guesses.append(Guess(estimate_s, ended_at - arrived_at))
                heapq.heappush(running, ended_at + service_s)

    for gap_s in gaps:
        now += gap_s
        end_until(now)
        if len(running) < row_count:
            heapq.heappush(running, now + service_s)
        else:
            line.append((now, speed.wait_s(waiting(len(line)), 1, now) if line else None))
    end_until(now + service_s * len(gaps) + 1.0)
    return guesses


@given(
    st.integers(1, 8),
    st.floats(0.1, 10.0),
    st.lists(st.floats(0.0, 1.0), min_size=150, max_size=150),
    st.floats(0.2, 3.0),
)
def test_what_would_be_in_time_is_not_refused_and_the_estimate_is_close(
    row_count: int, service_s: float, chances: list[float], load: float
) -> None:
    """Whatever the load: an estimate is never more than one service beyond the truth, nor below half of it."""
    gaps = [2 * chance * service_s / row_count / load for chance in chances]
    for guess in queued(row_count, service_s, gaps):
        assert guess.estimate_s <= 1.15 * guess.actual_s + service_s
        assert guess.estimate_s >= 0.5 * guess.actual_s - 2 * service_s


def test_the_simulated_queue_does_wait_and_is_estimated() -> None:
    guesses = queued(4, 1.0, [0.1] * 150)

    assert len(guesses) > 50
    assert max(guess.estimate_s for guess in guesses) > 5.0


def read(prompts: list[int], seconds_per_token: float) -> ThroughputEstimator:
    speed = ThroughputEstimator()
    for prompt_tokens in prompts:
        speed.observe_prefill(prompt_tokens, prompt_tokens * seconds_per_token, NOW)
    return speed


@given(st.integers(1, 10_000), st.floats(1e-5, 0.1))
def test_prompts_of_a_length_that_was_seen_take_as_long_as_those(prompt_tokens: int, per_token: float) -> None:
    speed = read([prompt_tokens] * 5, per_token)

    assert speed.prefill_s(prompt_tokens, NOW) == pytest.approx(prompt_tokens * per_token)


@given(st.lists(st.tuples(st.integers(1, 5000), SECONDS), min_size=3, max_size=40), st.integers(1, 100_000))
def test_no_prompt_is_estimated_to_take_longer_than_one_of_its_magnitude_did(
    prefills: list[tuple[int, float]], prompt_tokens: int
) -> None:
    speed = ThroughputEstimator()
    for seen_tokens, seconds in prefills:
        speed.observe_prefill(seen_tokens, seconds, NOW)
    estimate_s = speed.prefill_s(prompt_tokens, NOW)

    smaller = [seconds for seen, seconds in prefills if seen.bit_length() < prompt_tokens.bit_length()]
    similar = [
        seconds * prompt_tokens / seen for seen, seconds in prefills if seen.bit_length() == prompt_tokens.bit_length()
    ]
    if estimate_s is None:
        assert len(smaller) < 3 * 13
        assert len(similar) < 3
    else:
        assert estimate_s <= max([*smaller, *similar]) * (1 + 1e-9)


def test_a_prompt_longer_than_all_that_were_seen_is_not_extrapolated() -> None:
    speed = read([5] * 10, 0.1)

    assert speed.prefill_s(4000, NOW) == pytest.approx(0.5)


def test_a_prompt_shorter_than_all_that_were_seen_is_unknown() -> None:
    speed = read([4000] * 10, 0.1)

    assert speed.prefill_s(5, NOW) is None
    assert speed.wait_s(QueuedWork(), 5, NOW) == 0.0


@given(st.floats(0.01, 100.0))
def test_slow_prefills_are_forgotten_because_what_they_refuse_is_not_measured(seconds: float) -> None:
    speed = read([10] * 20, seconds / 10)
    later = NOW + max(11.0, 4.1 * seconds)
    assert speed.prefill_s(10, later) is None

    for _ in range(2):
        speed.observe_prefill(10, 0.001, later)
        assert speed.prefill_s(10, later) is None, "too few to tell, and those of before do not count"
    speed.observe_prefill(10, 0.001, later)

    assert speed.prefill_s(10, later) == pytest.approx(0.001)


@given(st.floats(0.01, 100.0))
def test_prefills_hold_until_others_can_have_been_measured(seconds: float) -> None:
    speed = read([10] * 20, seconds / 10)

    assert speed.prefill_s(10, NOW + max(9.9, 3.9 * seconds)) == pytest.approx(seconds)


def test_queue_and_prefill_add_up_and_the_unknown_one_counts_as_nothing() -> None:
    speed = drained(2.0)
    assert speed.wait_s(waiting(3), 10, NOW) == pytest.approx(6.0)
    for _ in range(3):
        speed.observe_prefill(10, 0.5, NOW)
    assert speed.wait_s(waiting(3), 10, NOW) == pytest.approx(6.5)
    assert speed.wait_s(QueuedWork(), 10, NOW) == pytest.approx(0.5)
    assert read([10] * 3, 0.05).wait_s(waiting(3), 10, NOW) == pytest.approx(0.5)


@given(st.floats(0.0001, 100.0), BACKLOGS, BACKLOGS)
def test_retry_delays_are_bounded_whole_milliseconds_and_grow_with_the_backlog(
    gap_s: float, one: QueuedWork, other: QueuedWork
) -> None:
    speed = drained(gap_s)
    less, more = sorted((one, other), key=lambda backlog: backlog.generation_count)

    delays = [speed.retry_after_s(backlog) for backlog in (less, more)]

    assert MIN_RETRY_S <= delays[0] <= delays[1] <= MAX_RETRY_S
    for delay_s in delays:
        assert delay_s * 1000 == pytest.approx(round(delay_s * 1000), abs=1e-6)


def test_a_caller_comes_again_when_what_it_found_is_worked_off() -> None:
    assert drained(0.1).retry_after_s(waiting(25)) == pytest.approx(2.5, abs=0.002)
    assert drained(0.0001).retry_after_s(waiting(1)) == MIN_RETRY_S
    assert drained(10.0).retry_after_s(waiting(100)) == MAX_RETRY_S


def test_the_step_is_the_mean_time_between_tokens() -> None:
    speed = ThroughputEstimator()
    assert speed.step_s == 0.0
    speed.observe_decode(10, 1.0)
    assert speed.step_s == pytest.approx(0.1)
    for _ in range(200):
        speed.observe_decode(10, 3.0)
    assert speed.step_s == pytest.approx(0.3, rel=0.01)


@given(st.lists(st.tuples(st.floats(0.001, 100.0), st.floats(0.1, 100.0)), min_size=1, max_size=50), st.integers(2, 50))
def test_a_ratio_lies_between_those_that_were_observed(observed: list[tuple[float, float]], window: int) -> None:
    ratio = DecayedRatio(window)
    for over, under in observed:
        ratio.observe(over, under)

    ratios = [over / under for over, under in observed]
    assert ratio.value is not None
    assert min(ratios) * (1 - 1e-9) <= ratio.value <= max(ratios) * (1 + 1e-9)


def test_a_ratio_over_no_time_at_all_is_unknown() -> None:
    ratio = DecayedRatio(4)
    ratio.observe(1.0, 0.0)

    assert ratio.value is None
