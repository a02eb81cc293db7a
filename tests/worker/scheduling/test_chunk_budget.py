"""How many prompt tokens a step reads while rows are running."""

import pytest

from worker.scheduling.chunk_budget import LEAST_TOKENS, STRETCH, TELLING_TOKENS, ChunkBudget

ROWS = 4


def learned(decode_s: float, token_s: float) -> ChunkBudget:
    """Returns a budget that has seen one step of each kind."""
    budget = ChunkBudget()
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=decode_s)
    budget.observe(rows=ROWS, prompt_tokens=100, seconds=decode_s + 100 * token_s)
    return budget


def decode_s(budget: ChunkBudget) -> float:
    return budget.decode_s[ROWS.bit_length()]


def test_without_experience_of_prompts_the_most_is_read() -> None:
    budget = ChunkBudget()
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=0.01)
    assert budget.tokens(256, ROWS) == 256


def test_nothing_is_read_before_the_cost_of_decoding_so_many_rows_is_seen() -> None:
    budget = learned(0.01, 0.0005)
    assert budget.tokens(256, 2 * ROWS) == 0
    budget.observe(rows=2 * ROWS, prompt_tokens=0, seconds=0.02)
    assert budget.tokens(256, 2 * ROWS) == pytest.approx(2 * budget.tokens(256, ROWS), abs=1)


def test_after_32_chunks_in_a_row_one_step_reads_nothing() -> None:
    budget = learned(0.01, 0.0005)
    for _ in range(31):
        assert budget.tokens(256, ROWS) > 0
        budget.observe(rows=ROWS, prompt_tokens=20, seconds=0.02)
    assert budget.tokens(256, ROWS) == 0
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=0.01)
    assert budget.tokens(256, ROWS) > 0


def test_the_only_decode_step_in_a_while_counts_half() -> None:
    budget = learned(0.01, 0.0005)
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=0.02)
    assert decode_s(budget) == pytest.approx(0.015)
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=0.02)
    assert decode_s(budget) == pytest.approx(0.016)


@pytest.mark.parametrize("decode_s", [0.01, 0.05])
def test_a_step_with_a_chunk_takes_the_stretch_of_one_without(decode_s: float) -> None:
    budget = learned(decode_s, 0.0005)
    step_s = decode_s + 0.0005 * budget.tokens(1000, ROWS)
    assert step_s == pytest.approx(STRETCH * decode_s, abs=0.0006)


def test_a_little_is_read_however_dear_it_is() -> None:
    assert learned(0.001, 0.1).tokens(256, ROWS) == LEAST_TOKENS


def test_never_more_than_the_most_is_read() -> None:
    assert learned(1.0, 0.001).tokens(256, ROWS) == 256
    assert learned(0.001, 0.1).tokens(4, ROWS) == 4


def test_a_hiccup_counts_as_four_times_the_average_at_most() -> None:
    budget = learned(0.01, 0.0005)
    budget.observe(rows=ROWS, prompt_tokens=100, seconds=100.0)
    assert budget.token_s == pytest.approx(0.0005 * (1 + 0.2 * 3))


def test_a_hiccup_in_the_very_first_step_is_forgotten_with_the_next_chunk() -> None:
    budget = learned(100.0, 0.0)
    budget.observe(rows=ROWS, prompt_tokens=100, seconds=0.06)
    assert decode_s(budget) == 0.06


def test_experience_is_forgotten() -> None:
    budget = learned(0.01, 0.0005)
    for _ in range(60):
        budget.observe(rows=ROWS, prompt_tokens=0, seconds=0.02)
    assert decode_s(budget) == pytest.approx(0.02, rel=0.01)


def test_prompts_of_a_few_tokens_tell_nothing_about_their_cost() -> None:
    budget = ChunkBudget()
    budget.observe(rows=0, prompt_tokens=TELLING_TOKENS - 1, seconds=1.0)
    assert budget.token_s == 0.0


def test_reading_alone_is_learned_from_too() -> None:
    budget = ChunkBudget()
    budget.observe(rows=0, prompt_tokens=1000, seconds=0.5)
    assert budget.token_s == pytest.approx(0.0005)
