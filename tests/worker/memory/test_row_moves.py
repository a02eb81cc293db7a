"""Rows are copied in place in an order that loses none."""

from hypothesis import given
from hypothesis import strategies as st

from worker.memory.copies import SAVED, row_moves

ORDERS = st.integers(1, 8).flatmap(lambda rows: st.lists(st.integers(0, rows - 1), max_size=8))


@given(ORDERS)
def test_after_the_moves_each_row_is_what_was_asked_for(order: list[int]) -> None:
    rows = {row: row for row in range(8)}
    for target, source in row_moves(order):
        rows[target] = rows[source]
    assert [rows[row] for row in range(len(order))] == order


@given(ORDERS)
def test_rows_that_stay_are_not_copied_and_others_once(order: list[int]) -> None:
    targets = [target for target, _ in row_moves(order) if target != SAVED]
    assert sorted(targets) == [row for row, source in enumerate(order) if row != source]


def test_a_leaving_row_is_replaced_by_one_copy() -> None:
    assert list(row_moves([0, 3, 2])) == [(1, 3)]


def test_rows_that_change_places_need_one_copy_aside() -> None:
    assert list(row_moves([1, 0])) == [(SAVED, 0), (0, 1), (1, SAVED)]
