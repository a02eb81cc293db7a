"""What is attempted after an allocation has failed."""

from hypothesis import given
from hypothesis import strategies as st

from worker.scheduling.recovery import Pressure


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 4096))
def test_a_failure_halves_what_was_tried_and_never_goes_below_one(most: int, rows: int, tokens: int) -> None:
    pressure = Pressure(most, 1024)
    pressure.step_failed(rows, tokens)
    assert pressure.rows == max(1, min(most, rows) // 2)
    assert pressure.tokens == max(1, min(1024, tokens or 1024) // 2)


def test_failures_in_a_row_come_down_to_one_row_and_one_token() -> None:
    pressure = Pressure(32, 1024)
    for _ in range(12):
        pressure.step_failed(pressure.rows, pressure.tokens)
    assert (pressure.rows, pressure.tokens) == (1, 1)


def test_the_limits_double_after_256_steps_that_went_well_and_stop_at_the_first_ones() -> None:
    pressure = Pressure(8, 100)
    pressure.step_failed(8, 100)
    for _ in range(255):
        pressure.step_succeeded()
    assert (pressure.rows, pressure.tokens) == (4, 50)
    pressure.step_succeeded()
    assert (pressure.rows, pressure.tokens) == (8, 100)
    for _ in range(1000):
        pressure.step_succeeded()
    assert (pressure.rows, pressure.tokens) == (8, 100)


def test_a_failure_starts_the_count_of_good_steps_again() -> None:
    pressure = Pressure(8, 100)
    pressure.step_failed(8, 100)
    for _ in range(255):
        pressure.step_succeeded()
    pressure.step_failed(4, 50)
    pressure.step_succeeded()
    assert (pressure.rows, pressure.tokens) == (2, 25)


def test_each_failure_doubles_the_steps_until_more_is_tried_again() -> None:
    pressure = Pressure(8, 100)
    for _ in range(3):
        pressure.step_failed(8, 100)
    for _ in range(4 * 256 - 1):
        pressure.step_succeeded()
    assert pressure.rows == 1
    pressure.step_succeeded()
    assert pressure.rows == 2
