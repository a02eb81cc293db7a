"""Faults of the workers of one gateway, while 32 streams run."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import psutil

from tests.chaos.callers import Ask, call, plain
from tests.chaos.fleet import Fleet
from tests.chaos.history import History
from tests.chaos.outcome import Outcome, percentile
from tests.chaos.processes import kill
from tests.chaos.recorder import now
from tests.chaos.resumption import Pause, pauses
from tests.chaos.rules import Tokens, failures

STREAMS = 32
OVERHEAD_S = 0.3
STOPPED_S = 4.0
HUNG_S = 3.0 + 1.0 + 0.75
"""The least limit that a worker announces, a heartbeat, and the gateway's looks."""

Fault = Callable[[Fleet], tuple[float, set[int]]]
"""Does it; returns when, and the numbers of the processes."""


class Round:
    """Streams that run while one fault happens."""

    def __init__(self, fleet: Fleet, asks: list[Ask], expected: dict[int, Tokens]) -> None:
        self._fleet = fleet
        self._asks = asks
        self._expected = expected
        self._heard: set[int] = set()
        self._all_run = asyncio.Event()
        self.problems: list[str] = []
        self.pauses: list[Pause] = []

    async def run(self, fault: Fault, after: Callable[[], Awaitable[None]]) -> None:
        """Runs the streams, does it once all have a token, and looks at what came of it."""
        await self._fleet.ready()
        trial = self._fleet.trial()
        streams = [asyncio.create_task(self._stream(ask)) for ask in self._asks]
        await self._all_run.wait()
        fault_at, workers = fault(self._fleet)
        await asyncio.gather(*streams)
        await after()
        self.problems += map(str, await trial.violations(self._expected))
        events = trial.events()
        self.problems += failures(History(events), lambda end: end.outcome == "length")
        self.pauses = pauses(events, fault_at, workers)

    async def _stream(self, ask: Ask) -> None:
        def heard(_: object) -> None:
            self._heard.add(ask.seed)
            if len(self._heard) == len(self._asks):
                self._all_run.set()

        await call(self._fleet.client, ask, self._fleet.record, heard)
        heard(None)  # a stream that has failed is not waited for


async def _rounds(fleet: Fleet, count: int, fault: Fault, after: Callable[[], Awaitable[None]]) -> list[Round]:
    rounds: list[Round] = []
    for _ in range(count):
        kind = fleet.kind
        asks = plain(fleet.seeds(STREAMS), STREAMS, kind.prompts, kind.max_new_tokens, kind.temperature)
        await fleet.ready()
        round_ = Round(fleet, asks, await fleet.undisturbed(asks))
        await round_.run(fault, after)
        rounds.append(round_)
    return rounds


async def _nothing() -> None:
    """There is nothing to undo."""


def _outcome(case: str, rounds: list[Round], bar: str, misses: list[str]) -> Outcome:
    found = [pause for round_ in rounds for pause in round_.pauses]
    whole = [pause.whole_s for pause in found]
    overhead = [pause.overhead_s for pause in found]
    figures = (
        f"{len(rounds)} times {STREAMS} streams, {len(found)} resumed; pause p50 "
        f"{1e3 * percentile(whole, 0.5):.0f} ms, "
        f"largest {1e3 * max(whole, default=0):.0f} ms; beside queue and prefill p50 "
        f"{1e3 * percentile(overhead, 0.5):.0f} ms, largest {1e3 * max(overhead, default=0):.0f} ms"
    )
    wrong = [problem for round_ in rounds for problem in round_.problems]
    return Outcome(case, figures, bar, [*wrong, *([] if found else ["no stream was resumed"])], misses)


def _too_long(name: str, seconds: list[float], limit_s: float) -> list[str]:
    longest = max(seconds, default=0.0)
    return [f"{name} was {longest:.2f} s, at most {limit_s:g} s are allowed"] if longest > limit_s else []


async def kill_one(fleet: Fleet, count: int) -> Outcome:
    """Kill -9 of one of two workers."""
    turn = iter(range(count))

    def fault(fleet: Fleet) -> tuple[float, set[int]]:
        victim = fleet.gateway.workers()[next(turn) % 2]
        return kill(victim, fleet.record), {victim.pid}

    rounds = await _rounds(fleet, count, fault, _nothing)
    overhead = [pause.overhead_s for round_ in rounds for pause in round_.pauses]
    return _outcome(
        f"kill -9 of one worker ({fleet.kind.name})", rounds, "0 failed, 0 wrong tokens; queue + prefill + 300 ms",
        _too_long("the pause beside queue and prefill", overhead, OVERHEAD_S),
    )  # fmt: skip


async def kill_both(fleet: Fleet, count: int) -> Outcome:
    """Kill -9 of all workers at once."""

    def fault(fleet: Fleet) -> tuple[float, set[int]]:
        victims = fleet.gateway.workers()
        return max([kill(victim, fleet.record) for victim in victims]), {victim.pid for victim in victims}

    rounds = await _rounds(fleet, count, fault, _nothing)
    return _outcome(f"kill -9 of both workers ({fleet.kind.name})", rounds, "0 failed, 0 wrong tokens", [])


async def stop_one(fleet: Fleet, count: int) -> Outcome:
    """SIGSTOP of one worker, and SIGCONT once all streams have ended, if it is still there."""
    stopped: list[psutil.Process] = []

    def fault(fleet: Fleet) -> tuple[float, set[int]]:
        victim = fleet.gateway.workers()[0]
        stopped[:] = [victim]
        victim.suspend()
        return now(), {victim.pid}

    async def go_on() -> None:
        _end_or_continue(fleet, stopped)

    rounds = await _rounds(fleet, count, fault, go_on)
    whole = [pause.whole_s for round_ in rounds for pause in round_.pauses]
    return _outcome(
        f"SIGSTOP of a worker ({fleet.kind.name})", rounds, "0 failed, 0 wrong tokens; resumed within 4 s",
        _too_long("the pause", whole, STOPPED_S),
    )  # fmt: skip


async def hang_one(fleet: Fleet, count: int) -> Outcome:
    """The engine of one worker hangs, and its event loop does not; it is killed afterwards, if it is still there."""
    hung: list[psutil.Process] = []

    def fault(fleet: Fleet) -> tuple[float, set[int]]:
        victim = fleet.gateway.workers()[0]
        hung[:] = [victim]
        os.kill(victim.pid, signal.SIGUSR1)
        return now(), {victim.pid}

    async def end() -> None:
        _kill_if_there(fleet, hung)

    rounds = await _rounds(fleet, count, fault, end)
    whole = [pause.whole_s for round_ in rounds for pause in round_.pauses]
    return _outcome(
        f"engine hung ({fleet.kind.name})", rounds, f"0 failed, 0 wrong tokens; resumed within {HUNG_S} s",
        _too_long("the pause", whole, HUNG_S),
    )  # fmt: skip


def _end_or_continue(fleet: Fleet, stopped: list[psutil.Process]) -> None:
    for process in stopped:
        if process.is_running() and process in fleet.gateway.workers():
            process.resume()
        else:
            fleet.killed(process)


def _kill_if_there(fleet: Fleet, hung: list[psutil.Process]) -> None:
    for process in hung:
        if process.is_running() and process in fleet.gateway.workers():
            kill(process, fleet.record)
        else:
            fleet.killed(process)
