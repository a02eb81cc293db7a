"""Candidates have seeds of their own, all made of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request.preprocess import SEED_LIMIT, candidate_seeds

SEEDS = st.integers(0, 2**63 - 1)


@given(SEEDS, st.integers(1, 300))
def test_seeds_are_distinct_and_begin_with_the_requests_own(seed: int, count: int) -> None:
    seeds = candidate_seeds(seed, count)

    assert len(set(seeds)) == len(seeds) == count
    assert seeds[0] == seed
    assert all(0 <= derived < SEED_LIMIT for derived in seeds[1:])


@given(SEEDS, st.integers(1, 50), st.integers(1, 50))
def test_a_candidates_seed_does_not_depend_on_how_many_there_are(seed: int, few: int, more: int) -> None:
    assert candidate_seeds(seed, few) == candidate_seeds(seed, few + more)[:few]


@given(st.sets(st.integers(0, 1000) | st.integers(0, SEED_LIMIT - 1), min_size=2, max_size=20))
def test_requests_with_different_seeds_share_no_candidates(seeds: set[int]) -> None:
    derived = [each for seed in seeds for each in candidate_seeds(seed, 8)[1:]]

    assert len(set(derived)) == len(derived)


def test_a_derived_seed_that_is_the_requests_own_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.request.preprocess._mix", lambda value: value - 1)

    assert candidate_seeds(7, 4) == [7, 6, 8, 9]


def test_seeds_are_the_same_forever() -> None:
    assert candidate_seeds(7, 4) == [7, 528252844729306, 3752024912564649, 8594297512563405]
