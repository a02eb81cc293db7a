"""The thread that owns the engine: takes commands between steps, hands out what each step made.

This is the only place where an error of a step is caught. The batch is undefined after one, and its sequences are
computed again: fewer at a time if memory could not be allocated, else to find out which of them the step fails for.

How long a step takes is predicted, so that a hung one can be told from a long one. The announced limit is ten times
the prediction, and never below three seconds: noise and a slow neighbour must not look like a hang. A step has a fixed
cost, of seconds where weights are fetched anew each time, and one for each token of a prompt that it reads. Both are
the recent maximum, which decays slowly.
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
from ..memory.device_errors import is_out_of_memory
from .engine import Engine

logger = logging.getLogger(__name__)

_FACTOR = 10.0
_LEAST_LIMIT_S = 3.0
_FIRST_LIMIT_S = 600.0
_DECAY = 0.99
_TELLING_TOKENS = 64
"""A step that reads fewer is mostly fixed cost: as that of each token, it would hide any hang in a long prompt."""


@dataclass(frozen=True)
class Work:
    """How much a step has to do."""

    decodes: bool
    prompt_tokens: int

    @classmethod
    def of(cls, plan: Plan) -> "Work":
        return cls(decodes=bool(plan.decoding), prompt_tokens=plan.prompt_tokens)


class Pace:
    """What steps have cost lately."""

    def __init__(self) -> None:
        self._step_s = 0.0
        """What a step takes that reads next to nothing; at first, what the first one took. 0 until seen."""
        self._prompt_token_s: float | None = None

    def limit(self, work: Work) -> float:
        """Returns after how many seconds a step with this work counts as hung."""
        token_s = self._prompt_token_s if work.prompt_tokens else 0.0
        if not self._step_s or token_s is None:
            return _FIRST_LIMIT_S
        predicted = self._step_s + token_s * work.prompt_tokens
        return max(_LEAST_LIMIT_S, _FACTOR * predicted)

    def observe(self, work: Work, seconds: float) -> None:
        """Learns from a step that took `seconds`."""
        if work.prompt_tokens:
            token_s = max(0.0, seconds - self._step_s) / max(work.prompt_tokens, _TELLING_TOKENS)
            self._prompt_token_s = max((self._prompt_token_s or 0.0) * _DECAY, token_s)
        computes = work.decodes or work.prompt_tokens > 0
        if not self._step_s or (computes and work.prompt_tokens < _TELLING_TOKENS):
            self._step_s = max(self._step_s * _DECAY, seconds)


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
