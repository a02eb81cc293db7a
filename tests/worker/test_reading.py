"""Which columns of a prefill group are read next."""

import random

import pytest

from tests.worker.fake_model import root, sequence
from worker.plan import Chunk
from worker.reading import Reading


def reading_of(*lengths: int) -> Reading:
    reading = Reading()
    reading.open([root(sequence(number, [3] * length, 1)) for number, length in enumerate(lengths)])
    return reading


def cost(lengths: list[int], chunk: Chunk) -> int:
    rows = sum(max(lengths) - length < chunk.end for length in lengths)
    return rows * (chunk.end - chunk.begin)


def test_rows_that_take_part_times_columns_are_within_the_budget() -> None:
    reading = reading_of(10, 4, 3)
    assert reading.next_chunk(5) == Chunk(0, 5)
    assert reading.next_chunk(12) == Chunk(0, 6), "with the second row there would be 14"
    assert reading.next_chunk(14) == Chunk(0, 7)
    assert reading.next_chunk(29) == Chunk(0, 9)
    assert reading.next_chunk(30) == Chunk(0, 10)


def test_one_column_is_read_however_small_the_budget() -> None:
    reading = reading_of(4, 4, 4)
    assert reading.next_chunk(1) == Chunk(0, 1)


def test_without_a_budget_everything_is_read() -> None:
    assert reading_of(9, 2).next_chunk(None) == Chunk(0, 9)


def test_padding_is_not_counted() -> None:
    assert reading_of(10, 4, 1).tokens(Chunk(5, 10)) == 5 + 4 + 1
    assert reading_of(10, 4, 1).tokens(Chunk(0, 7)) == 7 + 1


@pytest.mark.parametrize("seed", range(20))
def test_chunks_cover_the_group_within_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 30) for _ in range(rng.randint(1, 6))]
    reading, budget, read = reading_of(*lengths), rng.randint(1, 40), 0
    joined = False
    while not joined:
        chunk = reading.next_chunk(budget)
        assert chunk is not None
        assert cost(lengths, chunk) <= max(budget, len(lengths))
        assert cost(lengths, Chunk(chunk.begin, chunk.end + 1)) > budget or chunk.end == max(lengths)
        read += reading.tokens(chunk)
        joined = bool(reading.advance(chunk))
    assert read == sum(lengths)
