"""The engine and static batching under Poisson arrivals, at shares of what the engine can serve."""

import time
from collections.abc import Sequence

from bench.latency import Served, good_share, percentile
from bench.models import Models
from bench.open_loop import Arrival, Server, poisson_arrivals, serve
from bench.report import Section
from bench.request_sets import ROWS, warm_engine
from bench.servers import EngineServer, StaticServer
from bench.timing import seconds
from bench.workload import mixed_set, run_engine, useful_tokens
from worker.engine import Engine

LOADS = (0.5, 0.7, 0.9)
REQUESTS_PER_ROUND = 16
CAPACITY_RUNS = 2
GOODPUT_BAR = 2.0


def open_loop(models: Models, rounds: int) -> Section:
    """Serves the same arrivals with the engine and with static batching, 16 requests for each round."""
    engine = warm_engine(models.ours)
    capacity = measure_capacity(engine)
    requests = mixed_set(REQUESTS_PER_ROUND * rounds)
    mean_output = useful_tokens(requests) / len(requests)
    table: list[dict[str, object]] = []
    checks: dict[str, bool] = {}
    for load in LOADS:
        rate = load * capacity / mean_output
        arrivals = poisson_arrivals(requests, rate, seed=round(100 * load))
        ours, theirs = _run(EngineServer(engine), arrivals), _run(StaticServer(models.baseline, ROWS), arrivals)
        table += [_row("engine", load, rate, ours), _row("static", load, rate, theirs)]
        checks[f"goodput at {load} of capacity is {GOODPUT_BAR:g} times that of static batching"] = good_share(
            ours
        ) >= max(GOODPUT_BAR * good_share(theirs), 1 / len(ours))
    return Section({"open loop": table}, checks)


def measure_capacity(engine: Engine) -> float:
    """Returns the engine's tokens per second on the mixed set."""
    requests = mixed_set()
    taken = sum(seconds(lambda: run_engine(engine, requests)) for _ in range(CAPACITY_RUNS))
    return CAPACITY_RUNS * useful_tokens(requests) / taken


def _run(server: Server, arrivals: Sequence[Arrival]) -> list[Served]:
    return serve(server, arrivals, time.perf_counter, time.sleep)


def _row(name: str, load: float, rate: float, served: Sequence[Served]) -> dict[str, object]:
    first = [request.first_token_s for request in served]
    gaps = [gap for request in served for gap in request.gaps]
    return {
        "load": load,
        "server": name,
        "requests": len(served),
        "requests/s": rate,
        **{f"first token p{percent} ms": 1000 * percentile(first, percent) for percent in (50, 95, 99)},
        **{f"gap p{percent} ms": 1000 * percentile(gaps, percent) for percent in (50, 95, 99)},
        "good share": good_share(served),
        "goodput requests/s": rate * good_share(served),
    }
