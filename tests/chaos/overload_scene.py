"""Ten times the calls that can be served: as many are served in time as ever, the others are refused at once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import psutil

from tests.chaos.fleet import Fleet, fleet, scripted
from tests.chaos.load import COMPLETE, Order, Timed, arrivals, caller, closed_loop, open_loop
from tests.chaos.outcome import Outcome, percentile
from tests.chaos.recorder import now
from tests.chaos.scripted_worker import STEPS_PER_S

ROWS = 4
"""Of each worker: so few that ten times what they serve is little for the cores that make the calls, too."""
TOKEN_COUNTS = range(25, 76)
CAPACITY = 2 * ROWS * STEPS_PER_S * 2 / (TOKEN_COUNTS[0] + TOKEN_COUNTS[-1])
"""Calls a second, were no step late and no row ever empty."""
MAX_WAIT_S = 1.5
"""What an operator whose callers want a first token within 2 s lets them wait at most, in seconds."""
CALLERS = 12
"""Those that take every row, and some more."""
RAMP_S = 1.0
"""Until all rows are taken."""
PAUSE_S = 5.0
WATCH_S = 0.1
PARTS = 5
NORMAL_CALLS = 20

FACTOR = 10
GOODPUT_SHARE = 0.9
REFUSAL_S = 0.02
GROWTH_BYTES = 20 << 20
NORMAL_S = 0.1
OUTCOMES = frozenset({COMPLETE, "QUEUE_FULL"})
"""What may become of a call."""
BAR = (
    f"goodput (first token within 2 s, mean gap within 150 ms) at least {GOODPUT_SHARE:.0%} of peak, refusals p99 "
    f"within {1e3 * REFUSAL_S:.0f} ms, memory flat, first token within {1e3 * NORMAL_S:.0f} ms {PAUSE_S:.0f} s after"
)


@dataclass(frozen=True)
class Overload:
    """What was seen."""

    peak: float
    """Good calls a second, with as many callers as it takes."""
    goodput: float
    """Good calls a second under overload."""
    calls: Sequence[Timed]
    memory_bytes: Sequence[int]
    """The gateway's, from time to time."""
    normal: Sequence[Timed]
    """Calls some time after, one by one."""

    @property
    def refusal_s(self) -> Sequence[float]:
        return [call.took_s for call in self.calls if call.is_refused]

    @property
    def grown_bytes(self) -> int:
        return grown(self.memory_bytes)

    def problems(self) -> list[str]:
        """What is wrong whatever the machine."""
        found: list[str] = []
        if not self.refusal_s:
            found.append("nothing was refused")
        if wrong := {call.outcome for call in self.calls} - OUTCOMES:
            found.append(f"calls ended with {', '.join(sorted(wrong))}")
        if self.grown_bytes > GROWTH_BYTES:
            found.append(f"the gateway has grown by {self.grown_bytes >> 20} MiB")
        return found

    def misses(self) -> list[str]:
        """What breaks the bars on time."""
        found: list[str] = []
        if self.goodput < GOODPUT_SHARE * self.peak:
            found.append(f"goodput was {self.goodput:.1f} calls/s, is {self.peak:.1f} at its peak")
        if (p99 := percentile(self.refusal_s, 0.99)) > REFUSAL_S:
            found.append(f"the p99 of refusals was {1e3 * p99:.1f} ms")
        if (slowest := _slowest(self.normal)) > NORMAL_S:
            found.append(f"a first token took {1e3 * slowest:.0f} ms {PAUSE_S:.0f} s after")
        return found

    def figures(self) -> str:
        """What is put into the table."""
        counts = Counter(call.outcome for call in self.calls)
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        p50, p99 = (1e3 * percentile(self.refusal_s, share) for share in (0.5, 0.99))
        return (
            f"{self.goodput:.1f} of {self.peak:.1f} good calls/s; {outcomes}; refusals p50 {p50:.1f} ms, p99 {p99:.1f} "
            f"ms; {self.grown_bytes / (1 << 20):+.1f} MiB; first token {1e3 * _slowest(self.normal):.0f} ms after"
        )


async def overload(duration_s: float, seed: int) -> Outcome:
    """Sends ten times what can be served for so long."""
    workers = replace(scripted(), flags=("--max-rows", str(ROWS)))
    async with fleet(workers, "--max-wait", str(MAX_WAIT_S)) as run:
        await run.ready()
        seen = await _overload(run, duration_s, random.Random(seed))
    return Outcome(f"overload {FACTOR}x for {duration_s:.0f} s", seen.figures(), BAR, seen.problems(), seen.misses())


async def _overload(run: Fleet, duration_s: float, chance: random.Random) -> Overload:
    begin = caller(run.client, Order(run.kind.prompts[0], TOKEN_COUNTS), chance)
    peak_at = now()
    peak = await closed_loop(begin, CALLERS, duration_s)
    overload_at = now()
    async with _watching(psutil.Process(run.gateway.pid)) as memory_bytes:
        calls = await open_loop(begin, arrivals(FACTOR * CAPACITY, duration_s, chance))
    await asyncio.sleep(PAUSE_S)
    return Overload(
        peak=good_rate(peak, peak_at + RAMP_S, peak_at + duration_s),
        goodput=good_rate(calls, overload_at + RAMP_S, overload_at + duration_s),
        calls=calls,
        memory_bytes=memory_bytes,
        normal=[await begin(now()) for _ in range(NORMAL_CALLS)],
    )


def good_rate(calls: Iterable[Timed], begin: float, end: float) -> float:
    """Good calls a second, of those that ended between two times."""
    return sum(call.is_good and begin <= call.ended_at < end for call in calls) / (end - begin)


def grown(memory_bytes: Sequence[int]) -> int:
    """By how much the last part is above the second one: the first one is when all that is ever needed is taken."""
    size = len(memory_bytes) // PARTS
    return max(memory_bytes[-size:]) - max(memory_bytes[size : 2 * size]) if size else 0


@asynccontextmanager
async def _watching(process: psutil.Process) -> AsyncIterator[list[int]]:
    """What the process takes of memory, from time to time."""
    memory_bytes: list[int] = []

    async def watch() -> None:
        while True:
            memory_bytes.append(int(process.memory_info().rss))
            await asyncio.sleep(WATCH_S)

    watching = asyncio.create_task(watch())
    try:
        yield memory_bytes
    finally:
        watching.cancel()


def _slowest(calls: Iterable[Timed]) -> float:
    return max(call.first_token_s for call in calls)
