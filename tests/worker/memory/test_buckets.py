"""Buckets of rows, and the parts of attention."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.memory.buckets import row_bucket, row_buckets
from worker.runners.cuda.kernels.tiling import attention_parts, columns_at_once


def test_the_first_buckets() -> None:
    assert row_buckets(128) == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128]


@given(st.integers(1, 4096))
def test_a_bucket_holds_its_rows_with_little_padding_and_is_its_own(rows: int) -> None:
    bucket = row_bucket(rows)
    assert rows <= bucket < (2 * rows if rows <= 16 else 1.5 * rows) + 1
    assert row_bucket(bucket) == bucket


@given(st.integers(1, 4096))
def test_there_are_few_buckets_and_each_is_needed(most_rows: int) -> None:
    buckets = row_buckets(most_rows)
    assert len(buckets) <= 2 * most_rows.bit_length()
    assert len(buckets) == 1 or buckets[-2] < most_rows <= buckets[-1]


def test_no_rows_have_no_bucket() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        row_bucket(0)


@pytest.mark.parametrize(("column_bytes", "columns"), [(64, 64), (256, 64), (512, 32), (1024, 16), (4096, 16)])
def test_a_tile_has_fewer_columns_where_they_are_long(column_bytes: int, columns: int) -> None:
    assert columns_at_once(column_bytes) == columns


@given(st.integers(1, 1 << 14), st.integers(1, 200))
def test_parts_fill_the_device_within_their_bounds(heads: int, processors: int) -> None:
    parts = attention_parts(heads, processors)
    assert parts in (8, 16, 32, 64)
    assert parts == 64 or parts * heads >= 4 * processors
