"""The numbers of rows that steps are captured for."""


def row_bucket(rows: int) -> int:
    """Returns the smallest of 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, ... that holds so many rows.

    Above 16 at most a third of a bucket is padding, and there are two buckets for each doubling: few graphs.

    Raises ValueError for less than one row.
    """
    if rows < 1:
        raise ValueError(f"{rows} rows have no bucket")
    power = 1 << (rows - 1).bit_length()
    between = power * 3 // 4
    return between if power >= 32 and rows <= between else power


def row_buckets(most_rows: int) -> list[int]:
    """Returns all buckets that up to `most_rows` rows need, smallest first."""
    return sorted({row_bucket(rows) for rows in range(1, most_rows + 1)})
