"""The thread that owns the engine: takes commands between steps, hands out what each step made.

This is the only place where an error of a step is caught. The batch is undefined after one, so every sequence in it
fails, and the engine starts again empty.
"""

import logging
import queue
import threading
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from .engine import Engine
from .pace import Pace, Work
from .sequence import Sequence, Status

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Start:
    """How long a sequence took to its first token, in seconds."""

    wait_s: float
    """From its arrival until its prefill began."""
    prefill_s: float
    """From then to the first token."""


@dataclass(frozen=True, slots=True)
class Emission:
    """What a step made for one sequence: a token, an end, or both."""

    owner: int
    sequence_id: int
    token: int | None
    """None if the sequence failed before it got one."""
    start: Start | None
    """Set with the first token."""
    finish: Status | None
    """Set with the last one."""
    error: str


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step made."""

    step: int
    emissions: list[Emission]


@dataclass(frozen=True, slots=True)
class Progress:
    """What the engine is doing, for the heartbeat."""

    step: int
    began_at: float | None = None
    """When the step under way began; None while idle."""
    limit_s: float = 0.0
    """How long it may take."""


@dataclass(frozen=True, slots=True)
class _Submit:
    sequence: Sequence


@dataclass(frozen=True, slots=True)
class _Cancel:
    sequences: Rows[Sequence]


class EngineThread:
    """Runs an engine. All methods may be called from any thread."""

    def __init__(
        self, engine: Engine, deliver: Callable[[StepReport], None], clock: Clock, died: Callable[[], None]
    ) -> None:
        """Prepares the thread.

        Args:
            engine: from `start` on it belongs to the thread.
            deliver: called on the thread with what each step made.
            clock: monotonic time in seconds.
            died: called on the thread when it ends because the engine could not be reset after an error: a device
                that is lost does not come back within a process.
        """
        self.progress = Progress(0)
        self._engine = engine
        self._deliver = deliver
        self._clock = clock
        self._died = died
        self._pace = Pace()
        self._commands: queue.SimpleQueue[_Submit | _Cancel | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the step under way, and waits for it. What runs is forgotten."""
        self._commands.put(None)
        self._thread.join()

    def submit(self, sequence: Sequence) -> None:
        """Queues a sequence; from now on it belongs to the thread."""
        self._commands.put(_Submit(sequence))

    def cancel(self, sequences: Rows[Sequence]) -> None:
        """Drops sequences: their rows are free with the next step, and nothing more is delivered for them."""
        self._commands.put(_Cancel(sequences))

    def _run(self) -> None:
        try:
            while self._obey():
                self._guarded_step()
        except Exception:
            logger.critical("the engine cannot go on", exc_info=True)
            self._died()

    def _guarded_step(self) -> None:
        try:
            self._step()
        except Exception:
            logger.exception("step %d failed; the sequences in it end", self.progress.step)
            self._emit([], self._fail_all())

    def _obey(self) -> bool:
        """Carries out all commands, waiting for one while there is nothing to do. False: the thread ends."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.scheduler.has_work)
            except queue.Empty:
                return True
            match command:
                case _Submit(sequence):
                    self._submit(sequence)
                case _Cancel(sequences):
                    self._engine.scheduler.cancel(sequences)
                case None:
                    return False

    def _submit(self, sequence: Sequence) -> None:
        sequence.arrived_at = self._clock()
        try:
            self._engine.scheduler.submit(sequence)
        except ValueError as error:
            logger.warning("refused a sequence: %s", error)
            sequence.fail("TOO_LONG")
            self._emit([], [sequence])

    def _step(self) -> None:
        plan = self._engine.plan()
        if plan.is_empty:
            return
        began = self._clock()
        work = Work.of(plan, len(self._engine.scheduler.group) or len(plan.joining))
        self.progress = Progress(self.progress.step + 1, began, self._pace.limit(work))
        for sequence in plan.opening:
            sequence.prefill_at = began
        changed = self._engine.run(plan)
        self._pace.observe(work, self._clock() - began)
        self.progress = Progress(self.progress.step)
        self._emit(plan.joining, changed)

    def _fail_all(self) -> list[Sequence]:
        self.progress = Progress(self.progress.step)
        dropped = self._engine.reset()
        for sequence in dropped:
            sequence.fail("ENGINE_ERROR")
        return dropped

    def _emit(self, started: Rows[Sequence], changed: Rows[Sequence]) -> None:
        now = self._clock()
        first = {id(sequence) for sequence in started}
        emissions = [_emission(sequence, now if id(sequence) in first else None) for sequence in changed]
        if emissions:
            self._deliver(StepReport(self.progress.step, emissions))


def _emission(sequence: Sequence, first_token_at: float | None) -> Emission:
    start = None
    if first_token_at is not None:
        start = Start(sequence.prefill_at - sequence.arrived_at, first_token_at - sequence.prefill_at)
    failed = sequence.status is Status.FAILED
    return Emission(
        owner=sequence.owner,
        sequence_id=sequence.sequence_id,
        token=None if failed else sequence.output[-1],
        start=start,
        finish=sequence.status if sequence.is_finished else None,
        error=sequence.error,
    )
