"""Faults that follow from a seed, and what carries them out."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """What is done."""

    KILL = "kill -9"
    STOP = "stop and continue"
    HANG = "hang of the engine"
    DELAY = "slow connection"
    SILENCE = "silent connection"
    HALF_CLOSE = "half-closed connection"
    CUT = "cut connection"


LASTING = frozenset({Kind.STOP, Kind.DELAY, Kind.SILENCE})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    at_s: float
    """From the begin of the run."""
    kind: Kind
    worker: int
    lasts_s: float = 0.0
    """Then it is undone."""

    def __str__(self) -> str:
        return f"{self.at_s:.2f} s {self.kind} of worker {self.worker} for {self.lasts_s:.2f} s"


class Target(Protocol):
    """What faults are done to."""

    def begin(self, kind: Kind, worker: int) -> None:
        """Does it."""

    def end(self, kind: Kind, worker: int) -> None:
        """Undoes it."""


Sleep = Callable[[float], Awaitable[None]]


def plan(
    seed: int, *, duration_s: float, every_s: float, workers: int, kinds: Sequence[Kind] = tuple(Kind)
) -> list[Fault]:
    """Faults within `duration_s`, one every `every_s` in the mean; the same for the same arguments."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at_s = chance.uniform(0, every_s)
    while at_s < duration_s:
        kind = chance.choice(kinds)
        lasts_s = chance.uniform(0.2, 6.0) if kind in LASTING else 0.0
        faults.append(Fault(at_s, kind, chance.randrange(workers), lasts_s))
        at_s += chance.uniform(0.5, 1.5) * every_s
    return faults


async def drive(faults: Iterable[Fault], target: Target, sleep: Sleep = asyncio.sleep) -> None:
    """Carries faults out, and returns when the last one is undone."""
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(_carry_out(fault, target, sleep))


async def _carry_out(fault: Fault, target: Target, sleep: Sleep) -> None:
    await sleep(fault.at_s)
    target.begin(fault.kind, fault.worker)
    if fault.kind in LASTING:
        await sleep(fault.lasts_s)
        target.end(fault.kind, fault.worker)
