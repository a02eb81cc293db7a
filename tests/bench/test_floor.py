import pytest

from bench.peer.protocol import Request
from bench.possible import Rates, decode_seconds, ideal_schedule, interpolate, possible


def test_a_row_that_ends_is_replaced_at_once() -> None:
    # Two rows. Steps that each request needs behind its first token: 2, 1, 1.
    assert ideal_schedule([3, 2, 2], max_rows=2) == [2, 2]


def test_rows_run_out_when_requests_do() -> None:
    assert ideal_schedule([5, 2, 3], max_rows=3) == [3, 2, 1, 1]


def test_a_request_of_one_token_takes_no_step() -> None:
    assert ideal_schedule([1, 2, 1, 2], max_rows=1) == [1, 1]
    assert ideal_schedule([1], max_rows=4) == []


def test_every_token_but_the_first_ones_takes_a_row_of_a_step() -> None:
    outputs = [8 + 5 * number % 56 for number in range(32)]
    steps = ideal_schedule(outputs, max_rows=16)
    assert sum(steps) == sum(outputs) - 32
    assert steps == sorted(steps, reverse=True), "rows are all busy until requests run out"
    assert max(steps) == 16


def test_values_between_measured_points_lie_on_the_line_between_the_nearest_two() -> None:
    points = {1: 5.0, 4: 8.0, 8: 20.0}
    assert [interpolate(points, rows) for rows in (1, 2, 4, 6, 8)] == [5.0, 6.0, 8.0, 14.0, 20.0]


@pytest.mark.parametrize("rows", [0, 9])
def test_nothing_is_guessed_outside_the_measured_points(rows: int) -> None:
    with pytest.raises(ValueError, match=str(rows)):
        interpolate({1: 5.0, 8: 20.0}, rows)


def test_steps_take_the_time_of_their_number_of_rows() -> None:
    assert decode_seconds([4, 4, 2], {1: 10.0, 4: 40.0}) == pytest.approx(0.1)


def test_what_is_possible_is_the_time_of_all_prompt_tokens_and_of_the_ideal_steps() -> None:
    requests = [Request([1] * 30, 3), Request([1] * 70, 2)]
    best = possible(requests, 2, Rates(step_ms={1: 10.0, 2: 15.0}, prefill=1000.0))
    assert best.prefill_s == pytest.approx(0.1)
    assert best.decode_s == pytest.approx(0.025)
    assert best.tokens_per_s == pytest.approx(5 / 0.125)
