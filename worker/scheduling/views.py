"""How a flat pool of tokens is viewed as rows and columns. Pure.

Every row of the batch has as many columns as the longest one, so the same memory holds many short rows or a few long
ones. A new view costs a copy of what is in it, so one is kept until it no longer fits, and a new one leaves room both
ways: for more rows, and for wider ones.
"""

from ..domain.plan import View

COMFORT = 1.5
"""Columns per column in use: with fewer, the window soon slides or the pool is soon viewed anew."""
_STEP = 64
"""Columns come in multiples of it where there are as many: some attention kernels want that."""


def choose(tokens: int, rows: int, width: int, *, max_rows: int) -> View | None:
    """Returns a view of a pool for so many rows of so many columns, with room for more of both if there is some.

    Args:
        tokens: size of the pool.
        rows: at least 1.
        width: columns that are needed at once, at least 1.
        max_rows: most rows that will ever be needed.
    """
    roomy = min(max_rows, 1 << (rows - 1).bit_length())
    columns = _columns(tokens, roomy)
    if columns >= COMFORT * width:
        return View(roomy, columns)
    columns = _columns(tokens, rows)
    if columns < width:
        columns = tokens // rows
    return View(rows, columns) if columns >= width else None


def _columns(tokens: int, rows: int) -> int:
    columns = tokens // rows
    return columns - columns % _STEP if columns >= _STEP else columns
