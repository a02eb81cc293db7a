"""The thread that owns the engine: takes commands between steps, hands out what each step made.

This is the only place where an error of a step is caught. The batch is undefined after one, and its sequences are
computed again: fewer at a time if memory could not be allocated, else to find out which of them the step fails for.
"""

import logging
import queue
import threading
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

from ..domain.outcome import Outcome, Output, TokenLogprob
from ..domain.plan import Plan
from ..domain.sequence import Root, Sequence, Status, fail_all, reported
from .device_errors import is_out_of_memory
from .engine import Engine
from .pace import Pace, Work

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
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, if asked for."""
    start: Start | None = None
    """Set with the first token."""
    finish: Status | None = None
    """Set with the last one."""
    error: str = ""
    score: float | None = None
    """Set at the end of a beam search."""


@dataclass(frozen=True, slots=True)
class PromptReport:
    """Log-probabilities of a part of a sequence's prompt."""

    owner: int
    sequence_id: int
    position: int
    logprobs: list[TokenLogprob]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step made."""

    step: int
    emissions: list[Emission]
    prompts: list[PromptReport] = field(default_factory=list)


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
    root: Root


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

    def stop(self, patience_s: float) -> bool:
        """Ends the thread after the step under way, and waits for it. What runs is forgotten.

        Returns whether it has ended; after `patience_s` seconds it is given up.
        """
        self._commands.put(None)
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def submit(self, root: Root) -> None:
        """Queues a root; from now on it and its sequences belong to the thread."""
        for sequence in (*reported(root.sequences), *root.sequences):
            sequence.arrived_at = self._clock()
        self._commands.put(_Submit(root))

    def cancel(self, sequences: Rows[Sequence]) -> None:
        """Drops sequences: their rows are free with the next step, and nothing more is delivered for them."""
        self._commands.put(_Cancel(sequences))

    def _run(self) -> None:
        try:
            while self._obey():
                self._guarded_step()
        except Exception:
            logger.critical("the engine cannot go on; this process must be replaced", exc_info=True)
            self._died()

    def _guarded_step(self) -> None:
        plan = self._engine.plan()
        if plan.is_empty:
            return
        try:
            self._step(plan)
        except Exception as error:
            out_of_memory = is_out_of_memory(error)
            logger.exception("step %d failed", self.progress.step)
        else:
            return
        # Only now, because the traceback held what the step had allocated.
        self._recover(plan, out_of_memory=out_of_memory)

    def _obey(self) -> bool:
        """Carries out all commands, waiting for one while there is nothing to do. False: the thread ends."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.scheduler.has_work)
            except queue.Empty:
                return True
            match command:
                case _Submit(root):
                    self._submit(root)
                case _Cancel(sequences):
                    self._engine.scheduler.cancel(sequences)
                case None:
                    return False

    def _submit(self, root: Root) -> None:
        try:
            self._engine.scheduler.submit(root)
        except ValueError as error:
            logger.warning("refused: %s", error)
            self._emit(Outcome([Output(sequence) for sequence in fail_all(reported(root.sequences), "TOO_LONG")]))

    def _step(self, plan: Plan) -> None:
        began = self._clock()
        work = Work.of(plan)
        self.progress = Progress(self.progress.step + 1, began, self._pace.limit(work))
        for sequence in reported(row for root in plan.opening for row in root.sequences):
            sequence.prefill_at = sequence.prefill_at or began
        outcome = self._engine.run(plan)
        self._pace.observe(work, self._clock() - began)
        self.progress = Progress(self.progress.step)
        self._emit(outcome)

    def _recover(self, plan: Plan, *, out_of_memory: bool) -> None:
        if out_of_memory:
            failed = self._engine.relieve(plan)
            pressure = self._engine.scheduler.pressure
            logger.warning("out of memory: now at most %d rows, and %d tokens a chunk", pressure.rows, pressure.tokens)
        else:
            failed = self._engine.try_again(plan)
            logger.warning("computing again what the step had; sequences to blame: %d", len(failed))
        # Not before: a device that does not answer would look idle.
        self.progress = Progress(self.progress.step)
        self._emit(Outcome([Output(sequence) for sequence in failed]))

    def _emit(self, outcome: Outcome) -> None:
        now = self._clock()
        emissions = [_emission(output, now) for output in outcome.outputs]
        prompts = [
            PromptReport(part.sequence.owner, part.sequence.sequence_id, part.position, part.logprobs)
            for part in outcome.prompt_parts
        ]
        if emissions or prompts:
            self._deliver(StepReport(self.progress.step, emissions, prompts))


def _emission(output: Output, now: float) -> Emission:
    sequence = output.sequence
    return Emission(
        owner=sequence.owner,
        sequence_id=sequence.sequence_id,
        tokens=output.tokens,
        logprobs=output.logprobs,
        start=_start(sequence, now) if output.tokens and sequence.first_token_at is None else None,
        finish=sequence.status if sequence.is_finished else None,
        error=sequence.error,
        score=sequence.score,
    )


def _start(sequence: Sequence, now: float) -> Start:
    sequence.first_token_at = now
    prefill_at = sequence.prefill_at or now
    return Start(prefill_at - sequence.arrived_at, now - prefill_at)
