"""How the batch closes the gaps that leaving rows make."""

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.plan import compact


@given(st.lists(st.booleans(), max_size=40))
def test_compact_keeps_exactly_the_staying_rows_with_fewest_moves(keep: list[bool]) -> None:
    rows = compact(keep)
    staying = [row for row, stays in enumerate(keep) if stays]
    assert sorted(rows) == staying
    gaps = sum(not stays for stays in keep[: len(staying)])
    assert sum(source != target for target, source in enumerate(rows)) == gaps


def test_the_first_gap_is_filled_by_the_last_row() -> None:
    assert compact([False, True, False, True, True]) == [4, 1, 3]
