"""Sets of requests that are all there at the beginning: the engine, `generate()`, and what is possible."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.models import Models
from bench.peer.protocol import Request
from bench.possible import measure_rates, possible
from bench.report import Section
from bench.static_batching import by_output, run_generate
from bench.timing import seconds
from bench.workload import mixed_set, run_engine, skewed_set, useful_tokens
from worker.assembly import assemble
from worker.domain.config import Config
from worker.engine.engine import Engine
from worker.loading.loading import LoadedModel
from worker.warm_up import warm_up

ROWS = 16
SHARE_BAR = 0.75
STATIC_BAR = 2.0
REPEATS = 10
"""How often each part of the floor is measured in a round."""


@dataclass(frozen=True)
class Round:
    """Tokens per second of one round."""

    engine: float
    arrival_ordered: float
    """`generate()` with batches in order of arrival."""
    length_sorted: float
    """`generate()` with batches of similar outputs."""
    possible: float

    @property
    def share(self) -> float:
        """Returns what the engine reaches of what is possible."""
        return self.engine / self.possible

    @property
    def ratio(self) -> float:
        """Returns the engine's throughput over that of the better of the static ways."""
        return self.engine / max(self.arrival_ordered, self.length_sorted)


def mixed(models: Models, rounds: int) -> Section:
    """Serves the mixed set."""
    engine = warm_engine(models.ours)
    requests = mixed_set()
    measured = [_round(engine, models, requests) for _ in range(rounds)]
    row = _row(measured)
    counters = {
        "slides": engine.batch.slides,
        "views": engine.batch.reviews,
        "preemptions": engine.scheduler.preemptions,
    }
    checks = {
        f"the mixed set reaches {SHARE_BAR} of what is possible": row["share"] >= SHARE_BAR,
        f"the mixed set is {STATIC_BAR:g} times as fast as the best static batches": row["ratio"] >= STATIC_BAR,
    }
    return Section({"mixed set": [{**row, **counters}]}, checks)


def skewed(models: Models, rounds: int) -> Section:
    """Serves one long request and fifteen short ones: one static batch in any order."""
    engine = warm_engine(models.ours)
    requests = skewed_set(rows=ROWS)
    row = _row([_round(engine, models, requests) for _ in range(rounds)])
    del row["length-sorted tokens/s"]
    return Section({"skewed set": [row]}, {})


def warm_engine(loaded: LoadedModel) -> Engine:
    """Returns an engine of 16 rows that has run."""
    engine = assemble(loaded, Config(max_rows=ROWS))
    warm_up(engine, loaded.facts.vocab_size)
    return engine


def _round(engine: Engine, models: Models, requests: Sequence[Request]) -> Round:
    tokens = useful_tokens(requests)
    arrival_ordered = tokens / seconds(lambda: run_generate(models.baseline, requests, ROWS))
    rates = measure_rates(models.floor, ROWS, REPEATS)
    ours = tokens / seconds(lambda: run_engine(engine, requests))
    length_sorted = arrival_ordered
    if len(requests) > ROWS:
        length_sorted = tokens / seconds(lambda: run_generate(models.baseline, by_output(requests), ROWS))
    return Round(ours, arrival_ordered, length_sorted, possible(requests, ROWS, rates).tokens_per_s)


def _row(measured: Sequence[Round]) -> dict[str, float]:
    """Returns the table's row: medians of the rounds, and the medians of their ratios."""
    median = statistics.median
    return {
        "rows": ROWS,
        "engine tokens/s": median(each.engine for each in measured),
        "arrival-ordered tokens/s": median(each.arrival_ordered for each in measured),
        "length-sorted tokens/s": median(each.length_sorted for each in measured),
        "ratio": median(each.ratio for each in measured),
        "possible tokens/s": median(each.possible for each in measured),
        "share": median(each.share for each in measured),
    }
