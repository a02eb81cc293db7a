"""The engine and static batching under Poisson arrivals, at shares of what the engine can serve."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.latency import Served, good_share, percentile
from bench.models import Models
from bench.open_loop import Server, poisson_arrivals, serve
from bench.report import Section
from bench.request_sets import ROWS, warm_engine
from bench.servers import EngineServer, StaticServer
from bench.timing import seconds
from bench.workload import mixed_set, run_engine
from worker.engine.engine import Engine

LOADS = (0.5, 0.7, 0.9)
REQUESTS = 32
"""In each round."""
CAPACITY_REQUESTS = 16 * ROWS
"""So many that the time at the end, when rows stay empty, is a small part."""
GOODPUT_BAR = 2.0
SHARE_BAR = 0.5


@dataclass(frozen=True)
class Load:
    """How a server did at one load, in all rounds."""

    rate: float
    """Requests per second."""
    served: Sequence[Served]

    @property
    def good_share(self) -> float:
        """Returns the share of requests that were served soon enough, 0 to 1."""
        return good_share(self.served)


def open_loop(models: Models, rounds: int) -> Section:
    """Serves the same arrivals with the engine and with static batching, others in each round."""
    engine = warm_engine(models.ours)
    capacity = measure_capacity(engine)
    table: list[dict[str, object]] = []
    checks: dict[str, bool] = {}
    for load in LOADS:
        rate = load * capacity
        ours, theirs = _run([EngineServer(engine), StaticServer(models.baseline, ROWS)], rate, rounds)
        ratio = ours.good_share / theirs.good_share if theirs.good_share else float("inf")
        table += [_row("engine", load, ours, ratio), _row("static", load, theirs, 1.0)]
        checks[
            f"at {load} of capacity at least {SHARE_BAR:.0%} of the requests are served well, "
            f"and {GOODPUT_BAR:g} times as many as by static batching"
        ] = ours.good_share >= SHARE_BAR and ratio >= GOODPUT_BAR
    return Section({"open loop": table}, checks)


def measure_capacity(engine: Engine) -> float:
    """Returns how many requests of the mixed set the engine ends per second while there are always some that wait."""
    requests = mixed_set(CAPACITY_REQUESTS)
    return len(requests) / seconds(lambda: run_engine(engine, requests))


def _run(servers: Sequence[Server], rate: float, rounds: int) -> list[Load]:
    served: list[list[Served]] = [[] for _ in servers]
    requests = mixed_set(REQUESTS)
    for seed in range(rounds):
        arrivals = poisson_arrivals(requests, rate, seed)
        for server, each in zip(servers, served, strict=True):
            each.extend(serve(server, arrivals, time.perf_counter, time.sleep))
    return [Load(rate, each) for each in served]


def _row(name: str, load: float, measured: Load, ratio: float) -> dict[str, object]:
    first = [request.first_token_s for request in measured.served]
    gaps = [gap for request in measured.served for gap in request.gaps]
    return {
        "load": load,
        "server": name,
        "requests": len(measured.served),
        "requests/s": measured.rate,
        **{f"first token p{percent} ms": 1000 * percentile(first, percent) for percent in (50, 95, 99)},
        **{f"gap p{percent} ms": 1000 * percentile(gaps, percent) for percent in (50, 95, 99)},
        "good share": measured.good_share,
        "goodput requests/s": measured.rate * measured.good_share,
        "of static": ratio,
    }
