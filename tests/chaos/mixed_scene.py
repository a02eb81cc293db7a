"""Calls of all kinds under faults of all kinds, both drawn from a seed."""

import asyncio
import os
import random
import signal
from collections import Counter

from tests.chaos.callers import Ask, call, mixed, wrong_ends
from tests.chaos.events import Ended, Killed
from tests.chaos.faults import Kind, drive, plan
from tests.chaos.fleet import Kind as Workers
from tests.chaos.fleet import Trial, scripted_tokens
from tests.chaos.history import History
from tests.chaos.outcome import Outcome
from tests.chaos.recorder import now
from tests.chaos.static_fleet import StaticFleet, static_fleet

EVERY_S = 4.0
MOST_TOKENS = 200
PROCESS_FAULTS = frozenset({Kind.KILL, Kind.STOP, Kind.HANG})
BREAKING = frozenset({Kind.KILL, Kind.HANG, Kind.HALF_CLOSE, Kind.CUT})
"""Faults that end a worker's stream."""


class FaultyFleet:
    """Does faults to the workers of a fleet, and starts again what has died."""

    def __init__(self, fleet: StaticFleet) -> None:
        self._fleet = fleet
        self._restarts: dict[int, asyncio.Task[None]] = {}
        self.begun: list[Kind] = []
        """What was done: to a process that is being started again, nothing is."""

    def begin(self, kind: Kind, worker: int) -> None:
        if kind in PROCESS_FAULTS and not self._is_there(worker):
            return
        self.begun.append(kind)
        proxy = self._fleet.proxies[worker]
        match kind:
            case Kind.KILL:
                self._kill(worker)
            case Kind.STOP:
                self._signal(worker, signal.SIGSTOP)
            case Kind.HANG:
                self._hang(worker)
            case Kind.DELAY:
                proxy.delay_s = 0.02
            case Kind.SILENCE:
                proxy.hold()
            case Kind.HALF_CLOSE:
                proxy.half_close()
            case Kind.CUT:
                proxy.cut()

    def end(self, kind: Kind, worker: int) -> None:
        proxy = self._fleet.proxies[worker]
        match kind:
            case Kind.STOP:
                self._signal(worker, signal.SIGCONT)
            case Kind.DELAY:
                proxy.delay_s = 0.0
            case Kind.SILENCE:
                proxy.release()
            case _:
                pass

    async def settled(self) -> None:
        """Returns when all workers are there again."""
        await asyncio.gather(*self._restarts.values())

    def _is_there(self, worker: int) -> bool:
        restart = self._restarts.get(worker)
        return restart is None or restart.done()

    def _signal(self, worker: int, number: int) -> None:
        if self._is_there(worker):
            os.kill(self._fleet.workers[worker].pid, number)

    def _kill(self, worker: int) -> None:
        self._restarts[worker] = asyncio.create_task(self._restart(worker, after_s=0.0))

    def _hang(self, worker: int) -> None:
        os.kill(self._fleet.workers[worker].pid, signal.SIGUSR1)
        self._restarts[worker] = asyncio.create_task(self._restart(worker, after_s=6.0))

    async def _restart(self, worker: int, *, after_s: float) -> None:
        await asyncio.sleep(after_s)
        process = self._fleet.workers[worker]
        os.kill(process.pid, signal.SIGKILL)
        self._fleet.record(Killed(now(), process.pid))
        await process.stop()
        await process.start()


async def mixed_faults(kind: Workers, *, seed: int, calls: int, duration_s: float) -> Outcome:
    """Runs calls and faults, spread over `duration_s`."""
    asks = mixed(seed, 1, calls, kind.prompts, MOST_TOKENS)
    faults = plan(seed, duration_s=duration_s, every_s=EVERY_S, workers=2)
    async with static_fleet(kind, gateways=1, workers=2) as fleet, fleet.client() as client:
        trial = Trial(fleet.folder, fleet.record, kind, fleet.tell)
        target = FaultyFleet(fleet)
        chance = random.Random(seed)

        async def caller(ask: Ask) -> None:
            await asyncio.sleep(chance.uniform(0, duration_s))
            await call(client, ask, fleet.record)

        await asyncio.gather(drive(faults, target), *(caller(ask) for ask in asks))
        await target.settled()
        expected = {ask.seed: scripted_tokens(ask) for ask in asks} if kind.is_scripted else {}
        wrong = list(map(str, await trial.violations(expected)))
        events = trial.events()
    resumed = sum(len(request.rows) > 1 for request in History(events).requests.values())
    problems = [*wrong_ends(asks, events), *wrong]
    if not resumed and BREAKING.intersection(target.begun):
        problems.append("no request was resumed")
    if problems:
        problems += [f"repeat with --only mixed --seed {seed}; faults were:", *map(str, faults)]
    ended = [event for event in events if isinstance(event, Ended)]
    figures = f"seed {seed}: {len(target.begun)} of {len(faults)} faults, {resumed} resumed; {_told(ended)}"
    return Outcome(f"mixed faults ({kind.name})", figures, "0 failed, 0 wrong tokens, nothing left over", problems)


def _told(ended: list[Ended]) -> str:
    outcomes = Counter(event.outcome for event in ended)
    return f"{len(ended)} calls: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
