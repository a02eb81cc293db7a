"""What running rows notice of a long prompt that is read between their steps, and what it costs the prompt."""

import random
import statistics
from dataclasses import dataclass

from bench.models import Models
from bench.peer.protocol import Request
from bench.report import Section
from bench.timing import seconds
from bench.workload import random_prompt, submit
from worker.assembly import assemble
from worker.domain.config import Config
from worker.domain.sequence import Sequence
from worker.engine.engine import Engine
from worker.warm_up import warm_up

ROWS = 8
PROMPT_TOKENS = 1024
QUIET_STEPS = 64
"""Steps without a prompt from which the median gap is taken, about as many as the prompt takes."""
GAP_BAR = 3.0
SPEED_BAR = 0.4


@dataclass(frozen=True)
class Round:
    """One prompt read alone, and again beside running rows."""

    solo_s: float
    """Time to its first token, alone."""
    beside_s: float
    """Time to its first token, beside the rows."""
    median_gap_s: float
    """Median time between the rows' tokens before it came."""
    longest_quiet_gap_s: float
    """Longest of those: what the machine does to a step by itself."""
    longest_gap_s: float
    """Longest time between the rows' tokens from then on, until it had left."""


def interference(models: Models, rounds: int) -> Section:
    """Lets a prompt of 1,024 tokens arrive while 8 rows decode."""
    engine = assemble(models.ours, Config(max_rows=2 * ROWS))
    warm_up(engine, models.ours.facts.vocab_size)
    measured = [_round(engine, random.Random(number)) for number in range(rounds)]
    row = {
        "rows": ROWS,
        "prompt tokens": PROMPT_TOKENS,
        "median gap ms": 1000 * statistics.median(each.median_gap_s for each in measured),
        "longest quiet gap ms": 1000 * statistics.median(each.longest_quiet_gap_s for each in measured),
        "longest gap ms": 1000 * statistics.median(each.longest_gap_s for each in measured),
        "longest / median": statistics.median(each.longest_gap_s / each.median_gap_s for each in measured),
        "solo prefill tokens/s": PROMPT_TOKENS / statistics.median(each.solo_s for each in measured),
        "prefill speed beside rows": statistics.median(each.solo_s / each.beside_s for each in measured),
    }
    checks = {
        f"the longest gap is at most {GAP_BAR:g} median gaps": row["longest / median"] <= GAP_BAR,
        f"a prompt is read at {SPEED_BAR:.0%} of its speed alone": row["prefill speed beside rows"] >= SPEED_BAR,
    }
    return Section({"prefill interference": [row]}, checks)


def _round(engine: Engine, rng: random.Random) -> Round:
    prompt = Request(random_prompt(rng, PROMPT_TOKENS), output_count=4)
    solo_s = sum(_until_first_token(engine, submit(engine, ROWS, prompt)))
    _finish(engine)
    rows = [submit(engine, row, Request(random_prompt(rng, 32), output_count=800)) for row in range(ROWS)]
    while len(engine.scheduler.running) < ROWS:
        engine.step()
    quiet = [seconds(engine.step) for _ in range(QUIET_STEPS)]
    joiner = submit(engine, ROWS, prompt)
    gaps = _until_first_token(engine, joiner)
    beside_s = sum(gaps)
    # The steps in which it runs and leaves count, too: its width is what the rows' memory was rearranged for.
    while not joiner.is_finished:
        gaps.append(seconds(engine.step))
    gaps.append(seconds(engine.step))
    engine.scheduler.cancel(rows)
    _finish(engine)
    return Round(solo_s, beside_s, statistics.median(quiet), max(quiet), max(gaps))


def _finish(engine: Engine) -> None:
    while engine.scheduler.has_work:
        engine.step()


def _until_first_token(engine: Engine, row: Sequence) -> list[float]:
    """Runs steps until a row has a token; returns how long each took."""
    taken = []
    while not row.output:
        taken.append(seconds(engine.step))
    return taken
