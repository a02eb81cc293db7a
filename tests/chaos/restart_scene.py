"""Gateways and workers that are restarted one after the other while calls go on."""

import asyncio
from collections import Counter
from collections.abc import Iterator

from client import AsyncClient
from tests.chaos.callers import Ask, call, plain
from tests.chaos.events import Ended
from tests.chaos.fleet import Kind, Trial, scripted_tokens
from tests.chaos.history import History
from tests.chaos.outcome import Outcome
from tests.chaos.recorder import Recorder
from tests.chaos.rules import failures
from tests.chaos.static_fleet import StaticFleet, static_fleet

CONCURRENT = 16
MOST_TOKENS = 20


async def rolling_restart(kind: Kind, calls: int) -> Outcome:
    """Restarts 2 workers and 2 gateways, each twice, evenly over `calls` calls."""
    async with static_fleet(kind, gateways=2, workers=2) as fleet, fleet.client() as client:
        trial = Trial(fleet.folder, fleet.record, kind, fleet.tell)
        asks = plain(1, calls, kind.prompts, MOST_TOKENS)
        progress = Progress(calls)
        turns = iter(asks)
        callers = [asyncio.create_task(_caller(client, turns, fleet.record, progress)) for _ in range(CONCURRENT)]
        await _restart_all(fleet, progress)
        await asyncio.gather(*callers)
        expected = {ask.seed: scripted_tokens(ask) for ask in asks} if kind.is_scripted else {}
        wrong = list(map(str, await trial.violations(expected)))
        outcomes = Counter(event.outcome for event in trial.events() if isinstance(event, Ended))
        failed = failures(History(trial.events()), lambda end: end.outcome == "length")
    if any(progress.exit_codes):
        failed.append(f"the processes that were told to stop ended with {progress.exit_codes}")
    figures = f"{calls} calls, {outcomes['length']} whole, {len(progress.exit_codes)} restarts"
    return Outcome(f"rolling restart ({kind.name})", figures, "0 failed, 0 wrong tokens", [*failed, *wrong])


class Progress:
    """Says when so many calls have ended."""

    def __init__(self, total: int) -> None:
        self.exit_codes: list[int] = []
        """Of the processes that were restarted."""
        self._total = total
        self._ended = 0
        self._changed = asyncio.Condition()

    async def one_ended(self) -> None:
        async with self._changed:
            self._ended += 1
            self._changed.notify_all()

    async def reaches(self, share: float) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended >= share * self._total)


async def _caller(client: AsyncClient, turns: Iterator[Ask], record: Recorder, progress: Progress) -> None:
    for ask in turns:
        await call(client, ask, record)
        await progress.one_ended()


async def _restart_all(fleet: StaticFleet, progress: Progress) -> None:
    processes = [*fleet.workers, *fleet.gateways] * 2
    for number, process in enumerate(processes):
        await progress.reaches((number + 0.5) / (len(processes) + 1))
        progress.exit_codes.append(await process.stop())
        await process.start()
