import math

import pytest

from bench.latency import Served, good_share, percentile


def served(*token_times: float, output_count: int | None = None) -> Served:
    return Served(10.0, len(token_times) if output_count is None else output_count, list(token_times))


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(20, 0, -1)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [10.0, 19.0, 20.0, 20.0]
    assert percentile([7.0], 1) == 7.0
    assert percentile([], 50) == 0.0


def test_the_time_to_the_first_token_counts_from_arrival_and_gaps_from_token_to_token() -> None:
    request = served(10.5, 10.75, 11.5)
    assert request.first_token_s == 0.5
    assert request.gaps == [0.25, 0.75]
    assert served(output_count=3).first_token_s == math.inf


@pytest.mark.parametrize(
    ("request_", "is_good"),
    [
        (served(12.0), True),
        (served(12.001), False),
        (served(11.0, 11.05, 11.29), True),  # 145 ms on average, one gap of 240 ms
        (served(11.0, 11.05, 11.31), False),  # 155 ms
        (served(11.0, 11.1, output_count=3), False),  # dropped
        (served(output_count=3), False),  # refused
    ],
)
def test_a_request_is_good_if_complete_begun_soon_and_steady_on_average(request_: Served, *, is_good: bool) -> None:
    assert request_.is_good is is_good


def test_dropped_requests_are_misses_in_the_good_share() -> None:
    assert good_share([served(10.1), served(output_count=5), served(10.2, 10.3), served(13.0)]) == 0.5
