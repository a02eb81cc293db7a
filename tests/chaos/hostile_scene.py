"""Good calls beside 2,000 idle connections, and beside attackers."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil

from client import AsyncClient, TextserveError
from tests.chaos.attacks import ATTACKS, connected
from tests.chaos.fleet import Fleet
from tests.chaos.outcome import Outcome, percentile
from tests.chaos.processes import Process
from tests.chaos.recorder import now

CALL_S = 0.1
ATTACKERS = 4
MANY_ATTACKERS, MANY_SIZE, MANY_S = 16, 20_000, 60.0
"""More than gRPC has threads, each with more than is read in a moment; and how long a call may wait for one, in s."""
MEMORY_BYTES = 256 << 20
"""By how much the gateway may grow: 2,000 connections may take 64 KiB each, a bomb its message limit."""


async def idle_connections(fleet: Fleet, count: int, calls: int) -> Outcome:
    """Opens connections that say hello and nothing more."""
    before = _memory(fleet)
    async with AsyncExitStack() as stack:
        for _ in range(count):
            attacker = await stack.enter_async_context(connected(*_address(fleet), answers=True))
            await attacker.greet()
        times, problems = await _good_calls(fleet.client, fleet.kind.prompts[0], calls)
        grown = _memory(fleet) - before
    figures = f"{count} connections, {grown >> 20} MiB; {_times(times)}"
    return Outcome(
        f"{count} idle connections",
        figures,
        "a good call's p99 within 100 ms, memory bounded",
        [*problems, *_too_much(grown)],
        _too_late(times),
    )


async def attacks(fleet: Fleet, size: int, calls: int) -> list[Outcome]:
    """Carries out each attack in turn, on several connections at a time."""
    return [await _attack(fleet, name, size, calls) for name in ATTACKS]


async def many_attackers(fleet: Fleet, calls: int) -> Outcome:
    """Keeps all threads that read connections busy: not a word of the workers is read for seconds."""
    workers = set(fleet.gateway.workers())
    async with _attackers(fleet, "settings flood", MANY_SIZE, MANY_ATTACKERS):
        times, problems = await _good_calls(fleet.client, fleet.kind.prompts[0], calls, timeout_s=MANY_S)
    return Outcome(
        f"settings flood from {MANY_ATTACKERS} connections",
        f"{_times(times)}, largest {max(times):.1f} s",
        f"no worker taken for dead, every call answered within {MANY_S:g} s",
        [*problems, *_ended(fleet, workers)],
    )


async def _attack(fleet: Fleet, name: str, size: int, calls: int) -> Outcome:
    before, workers = _memory(fleet), set(fleet.gateway.workers())
    async with _attackers(fleet, name, size, ATTACKERS) as attackers:
        times, problems = await _good_calls(fleet.client, fleet.kind.prompts[0], calls)
        grown = _memory(fleet) - before
    if await attackers.stop() != -signal.SIGTERM:
        problems.append("the attackers ended before they were told to")
    return Outcome(
        name,
        f"{grown >> 20} MiB; {_times(times)}",
        "no crash, memory bounded, a good call's p99 within 100 ms",
        [*problems, *_ended(fleet, workers), *_too_much(grown)],
        _too_late(times),
    )


@asynccontextmanager
async def _attackers(fleet: Fleet, name: str, size: int, count: int) -> AsyncIterator[Process]:
    host, port = _address(fleet)
    attackers = Process("tests.chaos.attacks", [name, host, str(port), str(size), str(count)], fleet.folder)
    await attackers.start()
    try:
        yield attackers
    finally:
        await attackers.stop()


async def _good_calls(
    client: AsyncClient, prompt: tuple[int, ...], count: int, *, timeout_s: float = 10.0
) -> tuple[list[float], list[str]]:
    times: list[float] = []
    problems: list[str] = []
    for _ in range(count):
        began_at = now()
        try:
            await client.generate(list(prompt), max_new_tokens=1, timeout=timeout_s)
        except TextserveError as error:
            problems.append(f"a good call failed: {error}")
        times.append(now() - began_at)
    return times, problems


def _too_late(times: list[float]) -> list[str]:
    p99 = percentile(times, 0.99)
    return [f"a good call's p99 was {1e3 * p99:.0f} ms"] if p99 > CALL_S else []


def _too_much(grown: int) -> list[str]:
    return [f"the gateway has grown by {grown >> 20} MiB"] if grown > MEMORY_BYTES else []


def _times(times: list[float]) -> str:
    p50, p99 = (1e3 * percentile(times, share) for share in (0.5, 0.99))
    return f"{len(times)} good calls, p50 {p50:.0f} ms, p99 {p99:.0f} ms"


def _ended(fleet: Fleet, workers: set[psutil.Process]) -> list[str]:
    """What should have lived through it, and did not."""
    if not psutil.pid_exists(fleet.gateway.pid):
        return ["the gateway has ended"]
    return ["a worker was taken for dead"] if set(fleet.gateway.workers()) != workers else []


def _memory(fleet: Fleet) -> int:
    return int(psutil.Process(fleet.gateway.pid).memory_info().rss)


def _address(fleet: Fleet) -> tuple[str, int]:
    host, _, port = fleet.gateway.ready_line.split(" ready on ")[1].split()[0].rpartition(":")
    return host, int(port)
