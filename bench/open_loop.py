"""Requests that arrive whether or not the server has time for them: Poisson arrivals, in real time."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.latency import Served
from bench.peer.protocol import Request

Emit = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Arrival:
    """A request and when it comes."""

    due: float
    """Seconds after the beginning."""
    request: Request


class Server(Protocol):
    """Something that serves requests, known by number, on the caller's thread."""

    @property
    def has_work(self) -> bool:
        """Whether a request that was submitted waits or runs."""
        ...

    def submit(self, number: int, request: Request) -> None:
        """Takes a request in."""
        ...

    def work(self, emit: Emit) -> None:
        """Works until it would look for new requests; emits the numbers of those that get a token, as they do."""
        ...


def poisson_arrivals(requests: Sequence[Request], rate: float, seed: int) -> list[Arrival]:
    """Returns requests with exponentially distributed gaps before them, `rate` a second on average."""
    rng = random.Random(seed)
    due = 0.0
    arrivals = []
    for request in requests:
        due += rng.expovariate(rate)
        arrivals.append(Arrival(due, request))
    return arrivals


def serve(
    server: Server, arrivals: Sequence[Arrival], clock: Callable[[], float], sleep: Callable[[float], None]
) -> list[Served]:
    """Submits each request when it is due, or as soon after that as the server looks, and works until all have ended.

    A request's time counts from when it was due. `clock` is in seconds.
    """
    began = clock()
    served = [Served(arrival.due, arrival.request.output_count) for arrival in arrivals]
    waiting = deque(enumerate(arrivals))

    def emit(numbers: Sequence[int]) -> None:
        now = clock() - began
        for number in numbers:
            served[number].token_times.append(now)

    while waiting or server.has_work:
        now = clock() - began
        while waiting and waiting[0][1].due <= now:
            number, arrival = waiting.popleft()
            server.submit(number, arrival.request)
        if server.has_work:
            server.work(emit)
        else:
            sleep(waiting[0][1].due - now)
    return served
