"""Calls that are timed: made as they come, whatever becomes of those before (open loop), or one after another."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from bench.latency import Served
from client import AsyncClient, TextserveError
from tests.chaos.recorder import now
from tests.chaos.rules import Tokens

COMPLETE = "length"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for, again and again."""

    prompt: Tokens
    token_counts: range
    """Of which each call draws one: callers that all asked for the same would come and go in step."""
    timeout_s: float = 60.0
    partial_on_deadline: bool = False


@dataclass(frozen=True, slots=True)
class Timed:
    """One call as its caller saw it. Times are of the run's clock."""

    served: Served
    ended_at: float
    outcome: str
    """Finish reason, or the reason of the error."""

    @property
    def first_token_s(self) -> float:
        """From when the call was due to its first token; infinite without one."""
        return self.served.first_token_s

    @property
    def is_refused(self) -> bool:
        """Whether it got an error and nothing else."""
        return self.outcome.isupper() and not self.served.token_times

    @property
    def took_s(self) -> float:
        return self.ended_at - self.served.arrived_at

    @property
    def is_good(self) -> bool:
        """Whether all came, and soon enough; see `bench.latency`."""
        return self.outcome == COMPLETE and self.served.is_good


Begin = Callable[[float], Awaitable[Timed]]
"""Makes one call to its end, given when it was due."""


def caller(client: AsyncClient, order: Order, chance: random.Random) -> Begin:
    """Makes calls of one kind. The client's own retries are for UNAVAILABLE alone: what is refused here stays so."""

    async def begin(due: float) -> Timed:
        served = Served(due, chance.choice(order.token_counts))
        outcome = await _read(client, order, served)
        return Timed(served, now(), outcome)

    return begin


async def _read(client: AsyncClient, order: Order, served: Served) -> str:
    stream = client.stream(
        list(order.prompt), max_new_tokens=served.output_count, temperature=1.0, token_ids=True, ignore_eos=True,
        timeout=order.timeout_s, partial_on_deadline=order.partial_on_deadline,
    )  # fmt: skip
    try:
        async with stream:
            async for delta in stream:
                served.token_times.extend([now()] * len(delta.token_ids))
            return str(stream.result.finish_reason)
    except TextserveError as error:
        return error.reason or error.code.name


def arrivals(rate: float, duration_s: float, chance: random.Random) -> Iterator[float]:
    """The times from the begin at which calls come that know nothing of one another, `rate` a second: Poisson."""
    at = chance.expovariate(rate)
    while at < duration_s:
        yield at
        at += chance.expovariate(rate)


async def open_loop(begin: Begin, times: Iterable[float]) -> list[Timed]:
    """Makes calls at their times, and returns once all have ended. What is made late counts from when it was due."""
    began_at = now()
    calls: list[asyncio.Task[Timed]] = []
    async with asyncio.TaskGroup() as group:
        for time in times:
            await asyncio.sleep(began_at + time - now())
            calls.append(group.create_task(_made(begin, began_at + time)))
    return [call.result() for call in calls]


async def closed_loop(begin: Begin, callers: int, duration_s: float) -> list[Timed]:
    """Makes calls for so long, each caller as soon as its last one has ended; returns once all have ended."""
    until = now() + duration_s
    calls: list[Timed] = []

    async def call_on() -> None:
        while (due := now()) < until:
            calls.append(await begin(due))

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call_on())
    return calls


async def _made(begin: Begin, due: float) -> Timed:
    return await begin(due)
