"""Which columns of a prefill group are read next."""

import random

import pytest

from tests.worker.fake_model import root, sequence
from worker.domain.plan import Chunk
from worker.scheduling.chunk_budget import LEAST_TOKENS, TELLING_TOKENS
from worker.scheduling.reading import Reading


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


def test_with_a_budget_of_nothing_the_group_waits() -> None:
    reading = reading_of(9, 2)
    assert reading.next_chunk(0) is None
    assert reading.next_chunk(4) == Chunk(0, 4)


def test_padding_is_not_counted() -> None:
    assert reading_of(10, 4, 1).prompt_tokens(Chunk(5, 10)) == 5 + 4 + 1
    assert reading_of(10, 4, 1).prompt_tokens(Chunk(0, 7)) == 7 + 1


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
        read += reading.prompt_tokens(chunk)
        joined = bool(reading.advance(chunk))
    assert read == sum(lengths)


@pytest.mark.parametrize("seed", range(50))
def test_the_smallest_budget_leaves_every_group_of_64_tokens_a_chunk_that_tells_its_cost(seed: int) -> None:
    """Where further rows begin, a chunk can be tiny; but then many rows are soon read at once."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, rng.choice([4, 20, 60])) for _ in range(rng.randint(1, 20))]
    reading, chunks = reading_of(*lengths, 64 - min(63, sum(lengths))), []
    while chunk := reading.next_chunk(LEAST_TOKENS):
        chunks.append(reading.prompt_tokens(chunk))
        reading.advance(chunk)
    assert max(chunks) >= TELLING_TOKENS
