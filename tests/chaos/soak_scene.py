"""Many mixed calls with cancels and kills: what processes hold stays what it was after the first tenth."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from tests.chaos.callers import Ask, call, mixed, wrong_ends
from tests.chaos.events import Ended
from tests.chaos.fleet import Fleet, scripted_tokens
from tests.chaos.outcome import Outcome
from tests.chaos.processes import kill

CONCURRENT = 32
MOST_TOKENS = 16
GROWTH_BYTES = 20 << 20
GROWTH_COUNT = 8
"""Descriptors and threads that may come and go by chance."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process holds."""

    memory_bytes: int
    descriptor_count: int
    thread_count: int

    @classmethod
    def of(cls, process: psutil.Process) -> "Holding":
        with process.oneshot():
            return cls(int(process.memory_info().rss), process.num_fds(), process.num_threads())


class Soak:
    """One run of `calls` calls. The first worker is killed again and again, the second one lives on and is watched."""

    def __init__(self, fleet: Fleet, calls: int, kills: int, seed: int) -> None:
        self._fleet = fleet
        self._calls = calls
        self._kills = kill_times(calls, kills)
        self._asks = mixed(seed, fleet.seeds(calls), calls, fleet.kind.prompts, MOST_TOKENS)
        self._ended = 0
        self._killed = 0
        self._survivor = fleet.gateway.workers()[1]
        self._early: dict[str, Holding] = {}
        self._late: dict[str, Holding] = {}

    async def run(self) -> Outcome:
        """Makes all calls, and looks at what came of them."""
        trial = self._fleet.trial()
        turns = iter(self._asks)
        await asyncio.gather(*(self._caller(turns) for _ in range(CONCURRENT)))
        self._late = self._holdings()
        expected = {ask.seed: scripted_tokens(ask) for ask in self._asks} if self._fleet.kind.is_scripted else {}
        wrong = list(map(str, await trial.violations(expected)))
        outcomes = Counter(event.outcome for event in trial.events() if isinstance(event, Ended))
        failed = wrong_ends(self._asks, trial.events())
        if self._killed < len(self._kills):
            failed.append(f"{self._killed} workers were there to be killed, not {len(self._kills)}")
        return Outcome(
            f"soak ({self._fleet.kind.name})", self._figures(outcomes), "memory within 20 MiB, all else flat",
            [*failed, *wrong, *self._growth()],
        )  # fmt: skip

    async def _caller(self, turns: Iterator[Ask]) -> None:
        for ask in turns:
            await call(self._fleet.client, ask, self._fleet.record)
            self._ended += 1
            if self._ended == self._calls // 10:
                self._early = self._holdings()
            if self._ended in self._kills:
                self._kill()

    def _kill(self) -> None:
        victims = [worker for worker in self._fleet.gateway.workers() if worker != self._survivor]
        for victim in victims:
            kill(victim, self._fleet.record)
            self._killed += 1

    def _holdings(self) -> dict[str, Holding]:
        processes = {"gateway": self._fleet.gateway.pid, "worker": self._survivor.pid, "client": None}
        return {name: Holding.of(psutil.Process(pid)) for name, pid in processes.items()}

    def _growth(self) -> Iterator[str]:
        for name, early in self._early.items():
            late = self._late[name]
            if late.memory_bytes - early.memory_bytes > GROWTH_BYTES:
                yield f"the {name} has grown by {(late.memory_bytes - early.memory_bytes) >> 20} MiB"
            if late.descriptor_count - early.descriptor_count > GROWTH_COUNT:
                yield f"the {name} has {late.descriptor_count} descriptors, had {early.descriptor_count}"
            if late.thread_count - early.thread_count > GROWTH_COUNT:
                yield f"the {name} has {late.thread_count} threads, had {early.thread_count}"

    def _figures(self, outcomes: Counter[str]) -> str:
        ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        grown = ", ".join(
            f"{name} {(self._late[name].memory_bytes - early.memory_bytes) / (1 << 20):+.1f} MiB"
            for name, early in self._early.items()
        )
        return f"{self._ended} calls, {self._killed} kills: {ended}; {grown}"


def kill_times(calls: int, kills: int) -> set[int]:
    """How many calls have ended at each kill: evenly, the last one long before the end."""
    return {int((number + 0.5) * calls / kills) for number in range(kills)}
