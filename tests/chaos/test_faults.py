"""A seed gives the same faults again, and all of them are carried out and undone."""

import asyncio
import heapq

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.callers import mixed
from tests.chaos.faults import LASTING, Fault, Kind, drive, plan
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
