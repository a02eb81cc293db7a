"""How many prompt tokens a step reads while rows are running."""

import pytest

from worker.chunk_budget import LEAST_TOKENS, STRETCH, ChunkBudget


def learned(decode_s: float, token_s: float) -> ChunkBudget:
    """Returns a budget that has seen one step of each kind."""
    budget = ChunkBudget()
    budget.observe(decodes=True, prompt_tokens=0, seconds=decode_s)
    budget.observe(decodes=True, prompt_tokens=100, seconds=decode_s + 100 * token_s)
    return budget


def test_without_experience_the_most_is_read() -> None:
    assert ChunkBudget().tokens(256) == 256


@pytest.mark.parametrize("decode_s", [0.01, 0.05])
def test_a_step_with_a_chunk_takes_the_stretch_of_one_without(decode_s: float) -> None:
    budget = learned(decode_s, 0.0005)
    step_s = decode_s + 0.0005 * budget.tokens(1000)
    assert step_s == pytest.approx(STRETCH * decode_s, abs=0.0006)


def test_a_little_is_read_however_dear_it_is() -> None:
    assert learned(0.001, 0.1).tokens(256) == LEAST_TOKENS


def test_never_more_than_the_most_is_read() -> None:
    assert learned(1.0, 0.001).tokens(256) == 256
    assert learned(0.001, 0.1).tokens(4) == 4


def test_a_hiccup_counts_as_four_times_the_average_at_most() -> None:
    budget = learned(0.01, 0.0005)
    budget.observe(decodes=True, prompt_tokens=0, seconds=100.0)
    assert budget.decode_s == pytest.approx(0.01 + 0.2 * 0.03)


def test_experience_is_forgotten() -> None:
    budget = learned(0.01, 0.0005)
    for _ in range(60):
        budget.observe(decodes=True, prompt_tokens=0, seconds=0.02)
    assert budget.decode_s == pytest.approx(0.02, rel=0.01)


def test_prompts_of_a_few_tokens_tell_nothing_about_their_cost() -> None:
    budget = ChunkBudget()
    budget.observe(decodes=False, prompt_tokens=LEAST_TOKENS - 1, seconds=1.0)
    assert budget.token_s == 0.0


def test_reading_alone_is_learned_from_too() -> None:
    budget = ChunkBudget()
    budget.observe(decodes=False, prompt_tokens=1000, seconds=0.5)
    assert budget.token_s == pytest.approx(0.0005)
