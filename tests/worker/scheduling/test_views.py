"""How the pool is viewed: always within it, roomy where it can be, and None only if nothing fits."""

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.plan import View
from worker.scheduling.views import COMFORT, choose

TOKENS = st.integers(1, 5000)
ROWS = st.integers(1, 64)
WIDTH = st.integers(1, 600)


@given(TOKENS, ROWS, WIDTH, ROWS)
def test_a_view_holds_what_is_asked_for_within_the_pool(tokens: int, rows: int, width: int, more: int) -> None:
    view = choose(tokens, rows, width, max_rows=rows + more)
    if view is not None:
        assert view.fits(rows, width)
        assert view.rows * view.columns <= tokens
        assert view.rows <= rows + more


@given(TOKENS, ROWS, WIDTH)
def test_there_is_no_view_only_where_the_tokens_do_not_suffice(tokens: int, rows: int, width: int) -> None:
    assert (choose(tokens, rows, width, max_rows=64) is None) == (rows * width > tokens)


@given(ROWS, WIDTH)
def test_a_large_pool_gives_room_to_grow_both_ways(rows: int, width: int) -> None:
    view = choose(10**6, rows, width, max_rows=128)
    assert view is not None
    assert rows <= view.rows < 2 * rows or view.rows == rows == 1
    assert view.columns >= COMFORT * width
    assert view.columns % 64 == 0


def test_a_view_fits_up_to_its_rows_and_columns_and_not_beyond() -> None:
    view = View(4, 100)
    assert view.fits(4, 100)
    assert not view.fits(5, 100)
    assert not view.fits(4, 101)
