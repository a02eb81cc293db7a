"""A dispatcher without a gateway around it, and what happens to one."""

import asyncio
from collections.abc import Callable
from itertools import count
from math import inf

from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.in_flight import InFlight
from gateway.domain.generation import Generation
from gateway.domain.sequence import Status
from gateway.domain.worker_words import Finish, Step
from gateway.scheduling.admission_control import AdmissionControl, QueueLimits, ThroughputEstimator
from gateway.scheduling.outliers import OutlierDetector
from gateway.scheduling.scheduler import Scheduler
from gateway.workers.run_stream import SendBuffer
from tests.fakes import ids
from tests.gateway.generations import generation

MUCH = 1_000_000
_NUMBERS = count()


class Watching(AdmissionControl):
    """Lets all in, or what a test says, and notes what it is told."""

    def __init__(self, scheduler: Scheduler | None = None, *, max_wait_s: float = inf, max_queued: int = MUCH) -> None:
        self.scheduler = Scheduler() if scheduler is None else scheduler
        limits = QueueLimits(
            max_queued=max_queued, max_queued_tokens=MUCH, max_tenant_queued=MUCH, max_tenant_queued_tokens=MUCH
        )
        super().__init__(self.scheduler, limits=limits, estimator=ThroughputEstimator(), max_wait_s=max_wait_s)
        self.refusal: Exception | None = None
        self.asked_with: list[tuple[int, int]] = []
        """How many waited, and how many had ended, each time that it was asked."""
        self.starts: list[tuple[Generation, float]] = []
        self.ends: list[float] = []
        self.loss_count = 0

    def admit(self, generation: Generation, now: float) -> None:
        self.asked_with.append((self.scheduler.work.generation_count, len(self.ends)))
        if self.refusal is not None:
            raise self.refusal
        super().admit(generation, now)

    def observe_start(self, generation: Generation, prefill_s: float) -> None:
        self.starts.append((generation, prefill_s))

    def observe_end(self, now: float) -> None:
        self.ends.append(now)

    def observe_loss(self) -> None:
        self.loss_count += 1


class Counting(Dispatcher):
    """Counts its passes."""

    passes = 0

    def _pass(self) -> None:
        self.passes += 1
        super()._pass()


def dispatcher(
    admission: Watching | None = None,
    outliers: OutlierDetector | None = None,
    *,
    worker_wait_s: float = 60.0,
    clock: Callable[[], float] = lambda: 0.0,
) -> Counting:
    admission = admission or Watching()
    return Counting(
        admission.scheduler,
        worker_wait_s=worker_wait_s,
        clock=clock,
        on_workers_changed=lambda _count: None,
        admission=admission,
        outliers=outliers or OutlierDetector(),
    )


def worker(limit: int = 4) -> InFlight:
    in_flight = InFlight(f"worker-{next(_NUMBERS):03}", SendBuffer())
    in_flight.row_limit = limit
    return in_flight


def submitted(dispatching: Dispatcher, number: int) -> list[Generation]:
    made = [generation() for _ in range(number)]
    for one in made:
        dispatching.submit(one)
    return made


def says(in_flight: InFlight, one: Generation, text: str) -> None:
    in_flight.step(Step([one.sequences[0].sequence_id] * len(text), ids(text)), now=0.0)


def ends(in_flight: InFlight, one: Generation) -> None:
    in_flight.step(Step([], [], finishes=(Finish(one.sequences[0].sequence_id, Status.LENGTH, ""),)), now=0.0)


async def passed(dispatching: Dispatcher) -> None:
    """Returns once what has happened has been seen to."""
    dispatching.wake()
    await asyncio.sleep(0)
