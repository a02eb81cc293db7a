"""How room is shared between gateways."""

from hypothesis import given
from hypothesis import strategies as st

from worker.service.connection import share

DEMANDS = st.dictionaries(st.integers(0, 20), st.integers(0, 60), min_size=1, max_size=8)


@given(st.integers(1, 80), DEMANDS)
def test_shares_sum_to_the_room_and_nobody_is_locked_out(total: int, demands: dict[int, int]) -> None:
    shares = share(total, demands)
    assert shares.keys() == demands.keys()
    assert sum(shares.values()) == max(total, len(demands))
    assert min(shares.values()) >= 1


@given(st.integers(1, 80), DEMANDS)
def test_nobody_has_more_than_its_demand_while_another_wants_more(total: int, demands: dict[int, int]) -> None:
    shares = share(total, demands)
    if any(shares[key] < demands[key] for key in demands):
        assert all(shares[key] <= max(1, demands[key]) for key in demands)


@given(st.integers(1, 80), DEMANDS)
def test_who_wants_more_has_as_much_as_anybody_but_for_one(total: int, demands: dict[int, int]) -> None:
    shares = share(total, demands)
    wanting = [key for key in demands if shares[key] < demands[key]]
    assert all(shares[other] <= shares[key] + 1 for key in wanting for other in shares)


@given(st.integers(1, 80), st.integers(1, 8))
def test_room_that_nobody_wants_is_dealt_out_evenly(total: int, gateways: int) -> None:
    shares = share(total, dict.fromkeys(range(gateways), 0))
    assert max(shares.values()) - min(shares.values()) <= 1


def test_small_demands_are_met_before_large_ones_are_raised() -> None:
    assert share(10, {1: 2, 2: 50, 3: 50}) == {1: 2, 2: 4, 3: 4}


def test_without_gateways_there_is_nothing_to_share() -> None:
    assert share(10, {}) == {}
