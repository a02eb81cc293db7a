"""Backoff: pure, over plain numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.pool.backoff import Backoff, BackoffPolicy

CHANCES = st.floats(0, 1)


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(BackoffPolicy(initial_s=0.5, max_s=30))
    delays = [backoff.next_delay(uptime_s=0, chance=0.5) for _ in range(9)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_worker_that_stayed_up_starts_afresh() -> None:
    backoff = Backoff(BackoffPolicy(initial_s=0.5, reset_after_s=60))
    delays = [backoff.next_delay(uptime_s=uptime_s, chance=0.5) for uptime_s in (0, 59.9, 60, 0)]
    assert delays == [0.5, 1, 0.5, 1]


@pytest.mark.parametrize(("chance", "delay_s"), [(0, 0.8), (0.5, 1.0), (1, 1.2)])
def test_chance_places_the_delay_within_the_jitter(chance: float, delay_s: float) -> None:
    backoff = Backoff(BackoffPolicy(initial_s=1, jitter=0.2))
    assert backoff.next_delay(uptime_s=0, chance=chance) == pytest.approx(delay_s)


def test_what_is_missed_comes_back_sooner_and_its_delays_grow_all_the_same() -> None:
    backoff = Backoff(BackoffPolicy(initial_s=1, max_s=30, missed_max_s=5))
    delays = [backoff.next_delay(uptime_s=1, chance=0.5, is_missed=is_missed) for is_missed in (True,) * 4 + (False,)]
    assert delays == [1, 2, 4, 5, 16]


@given(st.lists(st.tuples(st.floats(0, 1e6), CHANCES, st.booleans()), min_size=1, max_size=200))
def test_every_delay_stays_within_the_bounds(deaths: list[tuple[float, float, bool]]) -> None:
    policy = BackoffPolicy()
    backoff = Backoff(policy)
    for uptime_s, chance, is_missed in deaths:
        delay_s = backoff.next_delay(uptime_s=uptime_s, chance=chance, is_missed=is_missed)
        longest_s = policy.missed_max_s if is_missed else policy.max_s
        assert 0.8 * policy.initial_s <= delay_s <= 1.2 * longest_s + 1e-9
