"""Prompts that never cease to come, beside running rows: how fast they are read, and what rows have to bear for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from statistics import median

import pytest

from worker.domain.sequence import Root, SamplingParameters, Sequence
from worker.scheduling.scheduler import Limits, Scheduler

LIMITS = Limits(max_rows=64, context_length=4096, pool_tokens=64 * 4096, group_tokens=4096, chunk_tokens=256)
TOKEN_S = 0.0005


FIXED_S = 0.06
"""Of a chunk, on a machine that has such a cost: twice what 16 rows take."""


def decode_s(rows: int) -> float:
    """Returns how long a step takes that decodes so many rows: 9 ms for one, 30 ms for 16."""
    return 0.008 + 0.0014 * rows if rows else 0.0


@dataclass(frozen=True)
class Step:
    """What a step read, and how long it took."""

    prompt_tokens: int
    seconds: float


class Load:
    """Rows that run for ever, and a machine that takes a known time for each row and each prompt token."""

    def __init__(self, rows: int, fixed_s: float = 0.0) -> None:
        self.scheduler = Scheduler(LIMITS)
        self._fixed_s = fixed_s
        self._ids = count()
        self.add(rows)

    def add(self, rows: int) -> None:
        """Lets so many more rows run."""
        wanted = len(self.scheduler.running) + rows
        for _ in range(rows):
            self._submit(4, max_new_tokens=3000)
        while len(self.scheduler.running) < wanted:
            self._step()

    def steps(self, group: int, prompt_tokens: int) -> Iterator[Step]:
        """Yields steps, while so many prompts wait all the time."""
        while True:
            while len(self.scheduler.waiting) < group:
                self._submit(prompt_tokens, max_new_tokens=1)
            yield self._step()

    def _submit(self, prompt_tokens: int, max_new_tokens: int) -> None:
        prompt = [1] * prompt_tokens
        self.scheduler.submit(Root(prompt, [Sequence(next(self._ids), prompt, SamplingParameters(max_new_tokens))]))

    def _step(self) -> Step:
        plan = self.scheduler.schedule()
        for sequence in plan.sampled:
            self.scheduler.update(sequence, 1)
        seconds = decode_s(len(plan.decoding)) + TOKEN_S * plan.prompt_tokens
        seconds += self._fixed_s if plan.prompt_tokens else 0.0
        self.scheduler.step_succeeded(plan, seconds)
        return Step(plan.prompt_tokens, seconds)


def check(steps: list[Step]) -> None:
    """Prompts get 40 % of the speed that they would have alone, and no step takes the time of 3 that only decode."""
    share = TOKEN_S * sum(step.prompt_tokens for step in steps) / sum(step.seconds for step in steps)
    assert share > 0.4
    decoding = median(step.seconds for step in steps if not step.prompt_tokens)
    assert max(step.seconds for step in steps) < 3 * decoding


@pytest.mark.parametrize("believed_decode_s", [0.1, 1 / 3, 1, 3, 100], ids="decode_s x {}".format)
@pytest.mark.parametrize("believed_token_s", [0.01, 0.1, 1, 10, 1000], ids="token_s x {}".format)
@pytest.mark.parametrize("prompt_tokens", [300, 900, 1300], ids="prompts of {}".format)
def test_wrong_beliefs_are_put_right(prompt_tokens: int, believed_decode_s: float, believed_token_s: float) -> None:
    """Prompts of 1,300 tokens are read in groups of 3 rows: 16 tokens, cut to whole columns, are 15 there."""
    load = Load(16)
    budget = load.scheduler.chunk_budget
    budget.decode_s = {(16).bit_length(): believed_decode_s * decode_s(16)}
    budget.cost.observe(100, 100 * believed_token_s * TOKEN_S)
    check(list(islice(load.steps(8, prompt_tokens), 400))[200:])


def test_more_rows_are_no_dearer_prompts() -> None:
    load = Load(1)
    list(islice(load.steps(8, 1300), 100))
    load.add(15)
    check(list(islice(load.steps(8, 1300), 100)))


def test_fewer_rows_are_not_made_to_wait_as_long_as_many() -> None:
    load = Load(64 - 8)
    list(islice(load.steps(8, 1300), 100))
    load.scheduler.cancel(load.scheduler.running[1:])
    steps = list(islice(load.steps(8, 1300), 100))
    check(steps[1:])


@pytest.mark.parametrize("prompt_tokens", [300, 900, 1300], ids="prompts of {}".format)
def test_a_fixed_cost_of_chunks_neither_starves_prompts_nor_holds_rows_up(prompt_tokens: int) -> None:
    steps = list(islice(Load(16, FIXED_S).steps(8, prompt_tokens), 600))[200:]
    taken = sum(step.seconds for step in steps)
    read, chunks = sum(step.prompt_tokens for step in steps), sum(step.prompt_tokens > 0 for step in steps)
    assert (TOKEN_S * read + FIXED_S * chunks) / taken > 0.45
    assert TOKEN_S * read / taken > 0.25
    assert taken / len(steps) < 2.5 * decode_s(16)
    assert max(step.seconds for step in steps) < decode_s(16) + 1.1 * 3 * FIXED_S
