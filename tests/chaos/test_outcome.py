"""The table shows what passed and what did not, and why."""

import pytest

from tests.chaos.outcome import Outcome, percentile, table


def test_a_broken_bar_is_shown_with_its_reason() -> None:
    lost = Outcome("kill", "3 times", "0 failed", ["one was lost"])
    late = Outcome("stop", "once", "4 s", misses=["the pause was 5 s"])
    text = table([Outcome("cancel", "100 times", "no leak"), lost, late])
    assert "| cancel | no leak | 100 times | pass |" in text
    assert "| kill | 0 failed | 3 times | FAIL |" in text
    assert "| stop | 4 s | once | missed |" in text
    assert text.endswith("kill: one was lost\nstop: the pause was 5 s\n")


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)])
def test_percentiles_are_values_that_came_up(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_nothing_has_a_percentile_of_0() -> None:
    assert percentile([], 0.5) == 0.0
