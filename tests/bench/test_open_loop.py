from collections import deque
from itertools import pairwise

import pytest

from bench.open_loop import Arrival, Emit, poisson_arrivals, serve
from bench.peer.protocol import Request
from bench.workload import mixed_set


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class OneAtATime:
    """Makes one token a second, for one request after the other; notes when each was submitted."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.submitted_at: list[float] = []
        self._left: deque[list[int]] = deque()

    @property
    def has_work(self) -> bool:
        return bool(self._left)

    def submit(self, number: int, request: Request) -> None:
        self.submitted_at.append(self.clock())
        self._left.append([number, request.output_count])

    def work(self, emit: Emit) -> None:
        self.clock.sleep(1.0)
        first = self._left[0]
        emit([first[0]])
        first[1] -= 1
        if not first[1]:
            self._left.popleft()


def arrivals_at(*times: float, outputs: int = 2) -> list[Arrival]:
    return [Arrival(due, Request([1], outputs)) for due in times]


def run(arrivals: list[Arrival]) -> tuple[OneAtATime, list[list[float]]]:
    clock = Clock()
    server = OneAtATime(clock)
    served = serve(server, arrivals, clock, clock.sleep)
    return server, [request.token_times for request in served]


def test_a_request_is_submitted_when_it_is_due_and_an_idle_server_waits_for_it() -> None:
    server, tokens = run(arrivals_at(0.5, 10.0))
    assert server.submitted_at == [100.5, 110.0]
    assert tokens == [[1.5, 2.5], [11.0, 12.0]]


def test_what_comes_while_the_server_works_waits_until_it_looks() -> None:
    server, tokens = run(arrivals_at(0.5, 0.75))
    assert server.submitted_at == [100.5, 101.5]
    assert tokens == [[1.5, 2.5], [3.5, 4.5]]


def test_waiting_counts_from_when_a_request_was_due() -> None:
    clock = Clock()
    served = serve(OneAtATime(clock), arrivals_at(0.5, 0.75), clock, clock.sleep)
    assert [request.first_token_s for request in served] == [1.0, 2.75]
    assert [request.arrived_at for request in served] == [0.5, 0.75]


def test_arrivals_are_the_same_for_a_seed_in_order_and_at_the_rate_asked_for() -> None:
    requests = mixed_set(2000)
    arrivals = poisson_arrivals(requests, rate=4.0, seed=7)
    assert arrivals == poisson_arrivals(requests, rate=4.0, seed=7)
    assert arrivals != poisson_arrivals(requests, rate=4.0, seed=8)
    dues = [arrival.due for arrival in arrivals]
    assert dues == sorted(dues)
    assert dues[-1] == pytest.approx(2000 / 4.0, rel=0.1)
    assert [arrival.request for arrival in arrivals] == requests


def test_gaps_of_poisson_arrivals_vary_as_much_as_they_last() -> None:
    dues = [0.0] + [arrival.due for arrival in poisson_arrivals(mixed_set(4000), rate=2.0, seed=1)]
    gaps = [later - earlier for earlier, later in pairwise(dues)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)
