"""Tenants that want more than there is: one that sends ten times its share, and some of unequal weights."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from client import AsyncClient
from tests.chaos.fleet import Fleet, fleet, scripted
from tests.chaos.load import Begin, Order, Timed, arrivals, caller, closed_loop, open_loop
from tests.chaos.outcome import Outcome, percentile
from tests.chaos.recorder import now
from tests.chaos.scripted_worker import STEPS_PER_S

ROWS = 4
"""Of each worker."""
TOKEN_COUNTS = range(10, 31)
CAPACITY = 2 * ROWS * STEPS_PER_S * 2 / (TOKEN_COUNTS[0] + TOKEN_COUNTS[-1])
"""Calls a second, were no step late and no row ever empty."""
RAMP_S = 1.0
"""Until all rows are taken."""

FLOODER = "flooder"
OTHERS = ("first", "second", "third")
CALLERS = 4
"""Of each tenant: together they take every row twice."""
LOAD = 0.95
"""Of the capacity, where calls come by chance."""
FACTOR = 10
MAX_SLOWER = 1.5

WEIGHTS = {"light": 1, "middle": 2, "heavy": 4}
BACKLOG = 16
"""Callers of each tenant: so many that it always has something waiting."""
MAX_OFF = 0.1

Sends = Callable[[Begin, int], Awaitable[list[Timed]]]
"""Makes the calls of one tenant: its fair share, so many times."""


async def fairness(duration_s: float, poisson_s: float, seed: int) -> AsyncIterator[Outcome]:
    """Measures for `duration_s` each time; the flood among calls that come by chance for `poisson_s`, if at all."""
    workers = replace(scripted(), flags=("--max-rows", str(ROWS)))
    tenants = [flag for name, weight in WEIGHTS.items() for flag in ("--tenant", f"{name}={weight}")]
    async with fleet(workers, "--trust-tenant-metadata", *tenants) as run:
        await run.ready()
        yield await _flood(run, "all saturate it", saturating(duration_s), seed)
        if poisson_s:
            yield await _flood(run, f"Poisson, {LOAD:.0%} of capacity", poisson(poisson_s, seed), seed)
        yield await _weights(run, duration_s, seed)


def saturating(duration_s: float) -> Sends:
    """Callers without a pause: the fewer of a tenant's are served, the longer each waits, whatever the others do."""
    return lambda begin, times: closed_loop(begin, times * CALLERS, duration_s)


def poisson(duration_s: float, seed: int) -> Sends:
    """Calls that come by chance, together somewhat less than can be served if each tenant sends its share."""
    share = LOAD * CAPACITY / (1 + len(OTHERS))
    chance = random.Random(seed)
    return lambda begin, times: open_loop(begin, arrivals(times * share, duration_s, chance))


async def _flood(run: Fleet, how: str, sends: Sends, seed: int) -> Outcome:
    fair = await _others_first_tokens(run, sends, 1, seed)
    flooded = await _others_first_tokens(run, sends, FACTOR, seed)
    return Outcome(
        f"one of {1 + len(OTHERS)} tenants sends {FACTOR} times its share ({how})",
        f"first token of the others: {_times(fair)} without; {_times(flooded)} with",
        f"the others' p99 at most {MAX_SLOWER} times that without the flood",
        misses=list(slower(fair, flooded)),
    )  # fmt: skip


async def _others_first_tokens(run: Fleet, sends: Sends, factor: int, seed: int) -> list[float]:
    """Seconds to the first token of the calls of the tenants that send their share, while one sends more."""
    full_at = now() + RAMP_S
    calls = await _calls(run, {FLOODER: factor} | dict.fromkeys(OTHERS, 1), sends, seed)
    others = (call for tenant in OTHERS for call in calls[tenant])
    return [call.first_token_s for call in others if call.served.arrived_at >= full_at]


async def _weights(run: Fleet, duration_s: float, seed: int) -> Outcome:
    began_at = now()
    calls = await _calls(
        run, dict.fromkeys(WEIGHTS, 1), lambda begin, _: closed_loop(begin, BACKLOG, duration_s), seed
    )  # fmt: skip
    window = began_at + RAMP_S, began_at + duration_s
    counts = {tenant: token_count(calls[tenant], *window) for tenant in WEIGHTS}
    total = sum(counts.values())
    told = ", ".join(f"{WEIGHTS[tenant]}: {count / max(1, total):.1%}" for tenant, count in counts.items())
    return Outcome(
        f"tenants of weights {', '.join(map(str, WEIGHTS.values()))}",
        f"{total} tokens; shares by weight {told}",
        f"shares of tokens within {MAX_OFF:.0%} of what the weights say",
        misses=list(off(counts, WEIGHTS)),
    )  # fmt: skip


async def _calls(run: Fleet, tenants: Mapping[str, int], sends: Sends, seed: int) -> dict[str, list[Timed]]:
    """Lets all tenants send at once; returns what became of their calls."""
    address = run.gateway.ready_line.split(" ready on ")[1].split()[0]
    order = Order(run.kind.prompts[0], TOKEN_COUNTS)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(address, tenant=tenant)) for tenant in tenants]
        sent = await asyncio.gather(
            *(
                sends(caller(client, order, random.Random(f"{seed} {tenant}")), times)
                for client, (tenant, times) in zip(clients, tenants.items(), strict=True)
            )
        )
    return dict(zip(tenants, sent, strict=True))


def slower(fair: Sequence[float], flooded: Sequence[float]) -> Iterator[str]:
    """What breaks the bar, given times to first tokens without and with the flood."""
    before, after = percentile(fair, 0.99), percentile(flooded, 0.99)
    if not fair or not flooded or not after <= MAX_SLOWER * before:
        yield f"the p99 was {1e3 * after:.0f} ms, is {1e3 * before:.0f} ms without the flood"


def token_count(calls: Iterable[Timed], begin: float, end: float) -> int:
    """Tokens that came between two times."""
    return sum(begin <= time < end for call in calls for time in call.served.token_times)


def off(counts: Mapping[str, int], weights: Mapping[str, int]) -> Iterator[str]:
    """The tenants whose share of tokens is not that of their weight."""
    total, all_weights = sum(counts.values()), sum(weights.values())
    for tenant, count in counts.items():
        right = total * weights[tenant] / all_weights
        if not total or abs(count - right) > MAX_OFF * right:
            yield f"{tenant} got {count} tokens, should have got {right:.0f}"


def _times(first_token_s: Sequence[float]) -> str:
    p50, p99 = (1e3 * percentile(first_token_s, share) for share in (0.5, 0.99))
    return f"{len(first_token_s)} calls, p50 {p50:.0f} ms, p99 {p99:.0f} ms"
