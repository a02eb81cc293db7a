"""A seed gives the same faults again, and all of them are carried out and undone."""

import asyncio
import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.callers import PATIENCE_S, Ask, mixed, wrong_ends
from tests.chaos.events import Asked, Ended
from tests.chaos.faults import LASTING, Fault, Kind, drive, plan
from tests.chaos.soak_scene import kill_times
from tests.gateway.serving import settle


class FakeTime:
    """Moves on to the next who wakes when all sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    async def sleep(self, seconds: float) -> None:
        waking = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, len(self._sleepers), waking))
        await waking.wait()

    async def pass_until(self, task: "asyncio.Task[None]") -> None:
        await settle()
        while not task.done():
            self.now, _, waking = heapq.heappop(self._sleepers)
            waking.set()
            await settle()
        await task


class Witness:
    """Sees what is done, and when."""

    def __init__(self, time: FakeTime) -> None:
        self._time = time
        self.begun: list[tuple[float, Kind, int]] = []
        self.ended: list[tuple[float, Kind, int]] = []

    def begin(self, kind: Kind, worker: int) -> None:
        self.begun.append((self._time.now, kind, worker))

    def end(self, kind: Kind, worker: int) -> None:
        self.ended.append((self._time.now, kind, worker))


@given(st.integers(0, 2**32))
def test_a_seed_repeats_its_faults_and_its_calls(seed: int) -> None:
    def both() -> object:
        return plan(seed, duration_s=30, every_s=2, workers=2), mixed(seed, 1, 20, [(5,), (6, 7)], 40)

    assert both() == both()


@given(st.integers(0, 2**32))
def test_faults_are_within_the_run_and_at_workers_that_there_are(seed: int) -> None:
    faults = plan(seed, duration_s=30, every_s=2, workers=2)
    assert faults
    assert all(0 <= fault.at_s < 30 and fault.worker in {0, 1} for fault in faults)
    assert all((fault.lasts_s > 0) == (fault.kind in LASTING) for fault in faults)


def test_many_seeds_have_every_kind_of_fault() -> None:
    kinds = {fault.kind for seed in range(10) for fault in plan(seed, duration_s=60, every_s=2, workers=2)}
    assert kinds == set(Kind)


async def test_every_fault_is_carried_out_at_its_time_and_what_lasts_is_undone() -> None:
    time = FakeTime()
    witness = Witness(time)
    faults = [Fault(3.0, Kind.STOP, 1, 2.0), Fault(1.0, Kind.KILL, 0), Fault(4.0, Kind.SILENCE, 0, 6.0)]
    await time.pass_until(asyncio.create_task(drive(faults, witness, time.sleep)))
    assert witness.begun == [(1.0, Kind.KILL, 0), (3.0, Kind.STOP, 1), (4.0, Kind.SILENCE, 0)]
    assert witness.ended == [(5.0, Kind.STOP, 1), (10.0, Kind.SILENCE, 0)]


@given(st.integers(1, 20), st.integers(10, 1000))
def test_every_kill_comes_while_calls_are_to_be_made(kills: int, calls_of_each: int) -> None:
    calls = kills * calls_of_each
    times = kill_times(calls, kills)
    assert len(times) == kills
    assert all(0 < time <= calls - calls_of_each / 2 for time in times)


@pytest.mark.parametrize(
    ("outcome", "timeout_s", "leave_after", "is_right"),
    [
        ("length", PATIENCE_S, None, True),
        ("cancelled", PATIENCE_S, 3, True),
        ("cancelled", PATIENCE_S, None, False),
        ("DEADLINE_EXCEEDED/", 1.0, None, True),
        ("DEADLINE_EXCEEDED/", PATIENCE_S, None, False),
        ("UNAVAILABLE/WORKER_LOST", 1.0, None, False),
    ],
)
def test_a_call_may_end_early_only_if_it_asked_for_that(
    outcome: str, timeout_s: float, leave_after: int | None, *, is_right: bool
) -> None:
    ask = Ask(1, (5,), 9, leave_after, timeout_s)
    assert bool(wrong_ends([ask], [Asked(0, 1, (5,)), Ended(1, 1, outcome)])) != is_right
