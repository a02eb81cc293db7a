"""How many prompt tokens a step reads while rows are running."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.scheduling.chunk_budget import LEAST_TOKENS, MOST_FIXED, STRETCH, TELLING_TOKENS, ChunkBudget

ROWS = 4


def learned(decode_s: float, token_s: float) -> ChunkBudget:
    """Returns a budget that has seen one step of each kind, and whose rows have had their share since."""
    budget = ChunkBudget()
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=decode_s)
    budget.observe(rows=ROWS, prompt_tokens=100, seconds=decode_s + 100 * token_s)
    settle(budget, decode_s)
    return budget


def settle(budget: ChunkBudget, decode_s: float) -> int:
    """Runs steps that read nothing until one is to read again; returns how many."""
    steps = 0
    while not budget.tokens(256, ROWS):
        budget.observe(rows=ROWS, prompt_tokens=0, seconds=decode_s)
        steps += 1
    return steps


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
    for _ in range(32):
        assert budget.tokens(256, ROWS) > 0
        budget.observe(rows=ROWS, prompt_tokens=20, seconds=0.02)
    assert budget.tokens(256, ROWS) == 0
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=0.01)
    assert budget.tokens(256, ROWS) > 0


def test_the_only_decode_step_in_a_while_counts_half() -> None:
    budget = learned(0.01, 0.0005)
    budget.observe(rows=ROWS, prompt_tokens=20, seconds=0.02)
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
    budget = learned(0.001, 0.1)
    sizes = set()
    for _ in range(4):
        sizes.add(budget.tokens(256, ROWS))
        budget.observe(rows=ROWS, prompt_tokens=LEAST_TOKENS, seconds=0.001 + 0.1 * LEAST_TOKENS)
        settle(budget, 0.001)
    assert sizes == {LEAST_TOKENS, LEAST_TOKENS + TELLING_TOKENS}


def test_never_more_than_the_most_is_read() -> None:
    assert learned(1.0, 0.001).tokens(256, ROWS) == 256
    assert learned(0.001, 0.1).tokens(4, ROWS) == 4


def test_a_hiccup_counts_as_twice_the_average_at_most() -> None:
    budget = learned(0.01, 0.0005)
    for _ in range(3):
        budget.observe(rows=ROWS, prompt_tokens=100, seconds=0.06)
    budget.observe(rows=ROWS, prompt_tokens=100, seconds=100.0)
    assert budget.cost.seconds(100) < 2 * 0.05


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
    assert budget.cost.token_s == 0.0


def test_reading_alone_is_learned_from_too() -> None:
    budget = ChunkBudget()
    budget.observe(rows=0, prompt_tokens=1000, seconds=0.5)
    assert budget.cost.token_s == pytest.approx(0.0005)


def test_what_was_read_alone_is_no_measure_of_what_is_read_beside_rows() -> None:
    budget = ChunkBudget()
    budget.observe(rows=0, prompt_tokens=1000, seconds=5.0)
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=0.01)
    budget.observe(rows=ROWS, prompt_tokens=100, seconds=0.06)
    assert budget.cost.seconds(100) == pytest.approx(0.05)
    budget.observe(rows=0, prompt_tokens=1000, seconds=5.0)
    assert budget.cost.seconds(100) == pytest.approx(0.05)


def test_a_prompt_that_took_more_than_its_share_is_followed_by_steps_that_read_nothing() -> None:
    budget = learned(0.01, 0.0005)
    budget.observe(rows=ROWS, prompt_tokens=240, seconds=0.13)
    # 120 ms are the share of ten steps: that of its own, and nine more.
    assert settle(budget, 0.01) == 9


def test_no_chunk_is_followed_by_more_than_32_steps_that_read_nothing() -> None:
    budget = learned(0.01, 0.0005)
    budget.observe(rows=ROWS, prompt_tokens=240, seconds=1000.0)
    assert 30 <= settle(budget, 0.01) <= 32


def test_nobody_is_owed_anything_once_all_rows_have_ended() -> None:
    budget = learned(0.01, 0.0005)
    budget.observe(rows=ROWS, prompt_tokens=240, seconds=0.13)
    budget.observe(rows=0, prompt_tokens=240, seconds=0.12)
    assert budget.tokens(256, ROWS) > 0


@dataclass
class Machine:
    """Takes a known time for rows, for a chunk and for each of its tokens, and some noise."""

    decode_s: float
    fixed_s: float
    token_s: float
    noise: float = 0.0
    noises: Random = field(default_factory=lambda: Random(0))

    def exact(self, tokens: int) -> float:
        """Returns the time of a step that reads so many tokens beside the rows, without noise."""
        return self.decode_s + (self.fixed_s + self.token_s * tokens if tokens else 0.0)

    def seconds(self, tokens: int) -> float:
        """Returns the same with noise."""
        return self.exact(tokens) * self.noises.lognormvariate(0.0, self.noise)

    def run(self, budget: ChunkBudget, steps: int, most: int, prompt_tokens: int = 1000) -> list[tuple[int, float]]:
        """Returns the tokens and seconds of steps, while prompts of this length never cease to come."""
        taken, left = [], prompt_tokens
        for _ in range(steps):
            tokens = min(budget.tokens(most, ROWS), left)
            left = left - tokens or prompt_tokens
            taken.append((tokens, self.seconds(tokens)))
            budget.observe(rows=ROWS, prompt_tokens=tokens, seconds=taken[-1][1])
        return taken


def speed(steps: list[tuple[int, float]]) -> float:
    """Returns prompt tokens a second."""
    return sum(tokens for tokens, _ in steps) / sum(taken for _, taken in steps)


def started(machine: Machine) -> ChunkBudget:
    budget = ChunkBudget()
    budget.observe(rows=ROWS, prompt_tokens=0, seconds=machine.seconds(0))
    return budget


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.001, 1.0),
    st.floats(0.0, 12.0),
    st.floats(1e-5, 0.1),
    st.sampled_from([0.0, 0.05, 0.15]),
    st.integers(0, 10**6),
)
def test_rows_keep_their_share_of_time_and_of_each_step_whatever_a_chunk_costs(
    decode_s: float, fixed: float, token: float, noise: float, seed: int
) -> None:
    machine = Machine(decode_s, fixed * decode_s, token * decode_s, noise, Random(seed))
    steps = machine.run(started(machine), 600, 256)[200:]
    mean_s = sum(seconds for _, seconds in steps) / len(steps)
    assert mean_s < 1.15 * max(STRETCH * decode_s, (machine.exact(LEAST_TOKENS) + 32 * decode_s) / 33)
    allowed_s = decode_s + max((STRETCH - 1) * decode_s, machine.fixed_s / MOST_FIXED)
    longest = sorted(max(allowed_s, machine.exact(tokens)) for tokens, _ in steps)
    # Where the least is too much, some more is tried in turn with it.
    is_least = machine.exact(LEAST_TOKENS) > 0.9 * allowed_s
    least_s = max(allowed_s, machine.exact(LEAST_TOKENS + TELLING_TOKENS) if is_least else 0.0)
    # What is learned from noise is noisy: then one step in a while may be longer, but not many.
    assert longest[-1 if noise < 0.1 else -len(longest) // 20] <= (1.1 + 3 * noise) * least_s


@settings(max_examples=40, deadline=None)
@given(st.floats(0.001, 1.0), st.floats(0.0, 12.0), st.floats(1e-5, 0.1), st.integers(0, 10**6))
def test_chunks_are_worth_their_fixed_cost(decode_s: float, fixed: float, token: float, seed: int) -> None:
    machine = Machine(decode_s, fixed * decode_s, token * decode_s, 0.05, Random(seed))
    most = 4096
    steps = machine.run(started(machine), 600, most, prompt_tokens=1 << 20)[200:]
    # What the machine could read in the prompts' share of the time, with chunks as large as they may be.
    share_s = (STRETCH - 1) * decode_s
    best = (max(share_s, machine.fixed_s / MOST_FIXED) - machine.fixed_s) / machine.token_s
    best = max(LEAST_TOKENS, min(most, best))
    chunk_s = machine.exact(int(best)) - decode_s
    possible = best / (chunk_s + max(1.0, chunk_s / share_s) * decode_s)
    assert speed(steps) > 0.75 * possible


@pytest.mark.parametrize(
    ("machine", "least"),
    [
        (Machine(0.003, 0.028, 0.03e-3, 0.05), 3500),
        (Machine(0.003, 0.003, 0.03e-3, 0.05), 9853),
        (Machine(0.350, 0.350, 6e-3, 0.05), 55),
    ],
    ids=["GPU, prompts eager", "GPU, prompts captured", "CPU without kernels"],
)
def test_chunks_do_not_shrink_to_nothing_beside_a_fixed_cost(machine: Machine, least: float) -> None:
    """Without one in its reckoning a budget gives 398 tokens a second to the first, and 17 to the last."""
    assert speed(machine.run(started(machine), 600, 256)[100:]) > least


def test_tokens_are_not_blamed_for_a_fixed_cost_where_only_the_least_is_ever_read() -> None:
    """One that begins with small chunks sees no other, unless it tries."""
    machine = Machine(0.003, 0.028, 0.03e-3)
    budget = started(machine)
    for _ in range(50):
        budget.observe(rows=ROWS, prompt_tokens=LEAST_TOKENS, seconds=machine.seconds(LEAST_TOKENS))
    assert speed(machine.run(budget, 600, 256)[300:]) > 3500


def test_a_machine_that_gets_slower_is_learned_anew() -> None:
    budget = started(Machine(0.003, 0.003, 0.03e-3))
    Machine(0.003, 0.003, 0.03e-3).run(budget, 300, 256)
    slower = Machine(0.03, 0.03, 0.3e-3)
    fresh = speed(slower.run(started(slower), 600, 256))
    assert speed(slower.run(budget, 900, 256)[300:]) == pytest.approx(fresh, rel=0.2)
