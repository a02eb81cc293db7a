"""A decode step with a constant number of rows, over the floor of its arithmetic."""

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from bench.models import Models
from bench.peer.protocol import Request
from bench.report import Section
from bench.timing import Work, seconds
from bench.workload import random_prompt, submit
from worker.assembly import assemble
from worker.domain.config import Config
from worker.engine.engine import Engine
from worker.memory.batch import Batch
from worker.runners.runner import Logits, Prefill
from worker.warm_up import warm_up

ROWS = (1, 4, 8, 16, 32)
BARS = {1: 1.5, 4: 1.35, 16: 1.2}
BLOCKS, STEPS = 3, 8
"""In a round the engine and the floor take turns in so many blocks of so many steps."""


@dataclass(frozen=True)
class Round:
    """Medians of the steps of one round."""

    step_s: float
    floor_s: float
    host_s: float
    """What a step takes outside of the runner: scheduling, sampling, bookkeeping."""
    padded_share: float
    """Share of the window's rows times columns that is padding, 0 to 1."""
    padding_read: float
    """Share of the columns read that is padding, 0 to 1."""


def closed_loop(models: Models, rounds: int) -> Section:
    """Measures decode steps at each number of rows."""
    table = [step_row(rows, measure(models, rows, rounds)) for rows in ROWS]
    ratios = {row["rows"]: row["step / floor"] for row in table}
    checks = {f"a step at {rows} rows takes at most {bar} floors": ratios[rows] <= bar for rows, bar in BARS.items()}
    return Section({"closed loop": table}, checks)


def step_row(rows: int, measured: Sequence[Round]) -> dict[str, float]:
    """Returns the table's row: medians of the rounds, and the median of their ratios."""
    step_s = statistics.median(each.step_s for each in measured)
    return {
        "rows": rows,
        "step ms": 1000 * step_s,
        "floor ms": 1000 * statistics.median(each.floor_s for each in measured),
        "step / floor": statistics.median(each.step_s / each.floor_s for each in measured),
        "tokens/s": rows / step_s,
        "host us": 1e6 * statistics.median(each.host_s for each in measured),
        "padding in the window": statistics.median(each.padded_share for each in measured),
        "padding read": statistics.median(each.padding_read for each in measured),
    }


def measure(models: Models, rows: int, rounds: int) -> list[Round]:
    """Runs steps with `rows` rows, whose prompts are as long as those of the mixed set."""
    engine = assemble(models.ours, Config(max_rows=rows))
    warm_up(engine, models.ours.facts.vocab_size)
    rng = random.Random(rows)
    output_count = (rounds * BLOCKS + 1) * STEPS + 2 * rows
    for number in range(rows):
        submit(engine, number, Request(random_prompt(rng, rng.randint(8, 95)), output_count))
    while len(engine.scheduler.running) < rows:
        engine.step()
    floor_step = models.floor.step(rows)
    for _ in range(STEPS):
        engine.step()
        floor_step()
    with runner_times(engine) as running:
        return [_round(engine, floor_step, running) for _ in range(rounds)]


def _round(engine: Engine, floor_step: Work, running: list[float]) -> Round:
    steps, floors, shares = [], [], []
    running.clear()
    for _ in range(BLOCKS):
        for _ in range(STEPS):
            steps.append(seconds(engine.step))
            shares.append(padded_share(engine.batch))
        floors += [seconds(floor_step) for _ in range(STEPS)]
    host = [step - run for step, run in zip(steps, running, strict=True)]
    median = statistics.median
    share = statistics.mean(shares)
    return Round(median(steps), median(floors), median(host), share, share if engine.runner.reads_padding else 0.0)


@contextmanager
def runner_times(engine: Engine) -> Iterator[list[float]]:
    """Gives a list that grows by the seconds that the model's runner takes in each step."""
    step = engine.runner.step
    taken: list[float] = []

    def timed(batch: Batch, tokens: list[int], prefill: Prefill | None) -> Logits:
        began = time.perf_counter()
        logits = step(batch, tokens, prefill)
        taken.append(time.perf_counter() - began)
        return logits

    with patch.object(engine.runner, "step", timed):
        yield taken


def padded_share(batch: Batch) -> float:
    """Returns the share of the window's rows times columns that is padding, 0 to 1."""
    columns = len(batch.lengths) * batch.width
    return 1 - sum(batch.lengths) / columns if columns else 0.0
