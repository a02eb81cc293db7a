"""Runs the scenes, and prints what came of them against the bars.

    python -m tests.chaos [--long] [--strict] [--only NAME ...] [--seed N]

The exit code is 0 if nothing was lost, doubled or left over, and with --strict only if every bar on time holds, too.
"""

import argparse
import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from tests import life_line
from tests.chaos import hostile_scene, pool_scenes
from tests.chaos.cancel_scene import cancels
from tests.chaos.fairness_scene import fairness
from tests.chaos.fleet import Kind, fleet, model, scripted
from tests.chaos.mixed_scene import mixed_faults
from tests.chaos.outcome import Outcome, table
from tests.chaos.overload_scene import overload
from tests.chaos.restart_scene import rolling_restart
from tests.chaos.soak_scene import Soak

Outcomes = AsyncIterator[Outcome]


@dataclass(frozen=True)
class Size:
    """How much a run does."""

    kills: int
    rounds: int
    """Of each other fault of the workers."""
    model_kills: int
    model_rounds: int
    cancels: int
    """In each phase."""
    restart_calls: int
    seeds: int
    mixed_calls: int
    mixed_s: float
    connections: int
    attack: int
    good_calls: int
    overload_s: float
    fairness_s: float
    poisson_s: float
    """Of fairness among calls that come by chance, whose percentiles mean nothing in a short run; 0 for none."""
    soak_calls: int
    soak_kills: int
    """Of one worker: so few that its backoff, 36 s at most, ends between them."""


SHORT = Size(
    kills=3, rounds=1, model_kills=1, model_rounds=0, cancels=100, restart_calls=300, seeds=1, mixed_calls=150,
    mixed_s=12.0, connections=200, attack=2_000, good_calls=100, overload_s=10.0, fairness_s=10.0,
    poisson_s=0.0, soak_calls=1_000, soak_kills=1,
)  # fmt: skip
LONG = Size(
    kills=20, rounds=5, model_kills=20, model_rounds=3, cancels=2_000, restart_calls=3_000, seeds=10, mixed_calls=400,
    mixed_s=60.0, connections=2_000, attack=20_000, good_calls=1000, overload_s=60.0,
    fairness_s=60.0, poisson_s=300.0, soak_calls=100_000, soak_kills=10,
)  # fmt: skip


async def _pool(kind: Kind, kills: int, rounds: int) -> Outcomes:
    async with fleet(kind) as run:
        yield await pool_scenes.kill_one(run, kills)
        for scene in (pool_scenes.kill_both, pool_scenes.stop_one, pool_scenes.hang_one) if rounds else ():
            yield await scene(run, rounds)


async def scripted_pool(size: Size, seed: int) -> Outcomes:
    async for outcome in _pool(scripted(), size.kills, size.rounds):
        yield outcome


async def model_pool(size: Size, seed: int) -> Outcomes:
    async for outcome in _pool(model(), size.model_kills, size.model_rounds):
        yield outcome


async def cancel(size: Size, seed: int) -> Outcomes:
    yield await cancels(size.cancels)


async def restart(size: Size, seed: int) -> Outcomes:
    yield await rolling_restart(scripted(), size.restart_calls)


async def mixed(size: Size, seed: int) -> Outcomes:
    for number in range(seed, seed + size.seeds):
        yield await mixed_faults(scripted(), seed=number, calls=size.mixed_calls, duration_s=size.mixed_s)


async def hostile(size: Size, seed: int) -> Outcomes:
    async with fleet(scripted()) as run:
        yield await hostile_scene.idle_connections(run, size.connections, size.good_calls)
        for outcome in await hostile_scene.attacks(run, size.attack, size.good_calls):
            yield outcome
    # A gateway that nobody has attacked yet: gRPC keeps for some time the threads that it has added.
    async with fleet(scripted()) as run:
        yield await hostile_scene.many_attackers(run, size.good_calls)


async def overloaded(size: Size, seed: int) -> Outcomes:
    yield await overload(size.overload_s, seed)


async def fair(size: Size, seed: int) -> Outcomes:
    async for outcome in fairness(size.fairness_s, size.poisson_s, seed):
        yield outcome


async def soak(size: Size, seed: int) -> Outcomes:
    async with fleet(scripted()) as run:
        yield await Soak(run, size.soak_calls, size.soak_kills, seed).run()


SCENES: dict[str, Callable[[Size, int], Outcomes]] = {
    "scripted": scripted_pool,
    "model": model_pool,
    "cancel": cancel,
    "restart": restart,
    "mixed": mixed,
    "hostile": hostile,
    "overload": overloaded,
    "fairness": fair,
    "soak": soak,
}


async def _outcomes(names: list[str], size: Size, seed: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for name in names:
        sys.stderr.write(f"{name} ...\n")
        try:
            outcomes += [outcome async for outcome in SCENES[name](size, seed)]
        except Exception as error:  # noqa: BLE001 - the other scenes are to be seen
            traceback.print_exc()
            outcomes.append(Outcome(name, "", "", [f"the scene failed with {error!r}"]))
    return outcomes


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--long", action="store_true", help="As much as the bars ask for; hours.")
    parser.add_argument("--strict", action="store_true", help="Fail for missed bars on time, too: on a quiet machine.")
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES), help="Scenes to run.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of mixed calls and faults.")
    flags = parser.parse_args()
    life_line.hold()
    outcomes = asyncio.run(_outcomes(flags.only, LONG if flags.long else SHORT, flags.seed))
    sys.stdout.write(table(outcomes))
    return int(any(outcome.problems or (flags.strict and outcome.misses) for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
