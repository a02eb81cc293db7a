"""The sequences of this gateway on one worker, for as long as one stream to it lasts."""

from dataclasses import dataclass, field
from itertools import repeat

from ..domain.errors import generation_failed
from ..domain.generation import Generation
from ..domain.request import ModelFacts
from ..domain.sequence import Sequence, Status
from ..domain.worker_words import Finish, PromptLogprobs, Start, Step
from ..scheduling.placement import WorkerLoad, is_preemptible
from ..workers.run_stream import SendBuffer


@dataclass(slots=True, eq=False)
class _Run:
    """A generation on the worker: how many of its sequences have not ended, and the rows that it still takes."""

    generation: Generation
    sequence_count: int
    row_count: int
    begun_at: float
    is_started: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    sequence: Sequence
    run: _Run


@dataclass(slots=True)
class Progress:
    """What a worker has done."""

    token_counts: dict[Generation, int] = field(default_factory=dict[Generation, int])
    """Tokens that it has generated, by what they belong to."""
    starts: list[tuple[Generation, float]] = field(default_factory=list[tuple[Generation, float]])
    """The generations with a first token, and how long their prefill took in seconds."""
    end_count: int = 0
    """Generations that have ended, or were given up."""
    failure_count: int = 0
    """Generations that have failed there."""


class InFlight:
    """Keeps account of what is outstanding on a worker, and hands what comes from it to their sequences.

    Args:
        worker: Name of the worker.
        buffer: Where it puts what the worker is to be told.
        facts: What the worker said of its model and its room; None: whatever is submitted fits there.
    """

    def __init__(self, worker: str, buffer: SendBuffer, facts: ModelFacts | None = None) -> None:
        self.worker = worker
        self.buffer = buffer
        self.facts = facts
        self.row_limit = 0
        """Most rows that may be outstanding, as the worker last said."""
        self.draining = False
        """Whether the worker takes nothing new."""
        self._rows: dict[int, _Row] = {}
        self._preemptible: dict[Generation, _Run] = {}
        """What makes way for interactive work, in the order of submission."""
        self.outstanding = 0
        """Rows that were submitted and have not ended."""
        self._preemptible_rows = 0
        self._served = 0
        self.progress = Progress()
        """What the worker has done since that was taken."""

    @property
    def limit(self) -> int:
        """Rows that may be outstanding now: a worker that drains has no room."""
        return 0 if self.draining else self.row_limit

    @property
    def takes_nothing(self) -> bool:
        """Whether it is sure that the worker has no room, for however few rows, and that nothing can make way there."""
        return self.draining or (self.outstanding >= self.row_limit and not self._preemptible)

    @property
    def load(self) -> WorkerLoad:
        """For the scheduler."""
        youngest = next(reversed(self._preemptible.values()), None)
        return WorkerLoad(
            self.worker,
            outstanding=self.outstanding,
            limit=self.limit,
            served=self._served,
            preemptible=self._preemptible_rows,
            preemptible_since=youngest.begun_at if youngest else 0.0,
            facts=self.facts,
        )

    def submit(self, generation: Generation, now: float) -> None:
        """Sends what of a generation has not ended to the worker.

        Raises ValueError if some of it is there already: a worker would not know which of the two it is told about.
        """
        sequences = generation.unfinished
        for sequence in sequences:
            if sequence.sequence_id in self._rows:
                raise ValueError(f"{self.worker} runs sequence {sequence.sequence_id} already")
        run = _Run(generation, len(sequences), generation.row_count, now)
        generation.submit(self.worker, now)
        for sequence in sequences:
            self._rows[sequence.sequence_id] = _Row(sequence, run)
        self.outstanding += run.row_count
        self._served += 1
        if is_preemptible(generation):
            self._preemptible[generation] = run
            self._preemptible_rows += run.row_count
        self.buffer.submit(generation)

    def detach(self, generation: Generation) -> bool:
        """Lets go of what of a generation is still outstanding. False if nothing was."""
        if not self._remove(generation):
            return False
        self.progress.end_count += 1
        return True

    def preempt(self, row_count: int) -> list[Generation]:
        """Takes back work that makes way, what began last first, until so many rows are free of it."""
        preempted: list[Generation] = []
        while row_count > 0 and self._preemptible:
            generation, run = next(reversed(self._preemptible.items()))
            row_count -= run.row_count
            self._remove(generation)
            preempted.append(generation)
        return preempted

    def take_progress(self) -> Progress | None:
        """Everything since the last call; None if there is nothing."""
        progress = self.progress
        if not (progress.token_counts or progress.starts or progress.end_count or progress.failure_count):
            return None
        self.progress = Progress()
        return progress

    def step(self, step: Step, now: float) -> None:
        """Takes in the outcome of engine steps. What belongs to sequences that have left is dropped.

        Raises ValueError if ids, tokens and log-probabilities do not run in parallel.
        """
        for start in step.starts:
            self._start(start)
        rows = self._rows
        logprobs = step.logprobs or repeat(None, len(step.token_ids))
        for sequence_id, token_id, logprob in zip(step.sequence_ids, step.token_ids, logprobs, strict=True):
            row = rows.get(sequence_id)
            if row is None:
                continue
            sequence, generation = row.sequence, row.run.generation
            sequence.push(token_id, now, logprob)
            # Whoever is told of a token may have the progress so far taken.
            counts = self.progress.token_counts
            counts[generation] = counts.get(generation, 0) + 1
            if sequence.status >= Status.END_OF_SEQUENCE:
                self._end(sequence_id)
                self.buffer.cancel((sequence_id,))
            generation.on_change()
        for finish in step.finishes:
            self._finish(finish)

    def prompt_logprobs(self, part: PromptLogprobs) -> None:
        """Takes in a part of a prompt's log-probabilities."""
        if row := self._rows.get(part.sequence_id):
            row.run.generation.add_prompt_logprobs(part.position, part.logprobs)
            row.run.generation.on_change()

    def close(self) -> list[Generation]:
        """Takes back everything that is outstanding, without a word to the worker. Late words of it find nothing here.

        Returns it in the order of submission.
        """
        generations = {row.run.generation: None for row in self._rows.values()}
        self._rows.clear()
        self._preemptible.clear()
        self._preemptible_rows = 0
        self.outstanding = 0
        return list(generations)

    def _start(self, start: Start) -> None:
        if row := self._rows.get(start.sequence_id):
            row.sequence.start(start.wait_s, start.prefill_s)
            if not row.run.is_started:
                row.run.is_started = True
                self.progress.starts.append((row.run.generation, start.prefill_s))

    def _finish(self, finish: Finish) -> None:
        row = self._end(finish.sequence_id)
        if row is None:
            return
        generation = row.run.generation
        if finish.status is Status.FAILED:
            self.progress.failure_count += 1
            generation.fail(generation_failed(finish.error))
            self.detach(generation)
        else:
            row.sequence.finish(finish.status, finish.score)
            generation.on_change()

    def _end(self, sequence_id: int) -> _Row | None:
        row = self._free(sequence_id)
        if row is not None and not row.run.sequence_count:
            self.progress.end_count += 1
        return row

    def _remove(self, generation: Generation) -> bool:
        """False if nothing of it was outstanding."""
        ids = [sequence.sequence_id for sequence in generation.sequences]
        dropped = [sequence_id for sequence_id in ids if self._free(sequence_id)]
        if dropped:
            self.buffer.cancel(dropped)
        return bool(dropped)

    def _free(self, sequence_id: int) -> _Row | None:
        """Frees the room of a sequence; beams that are more than the sequences go with the last one."""
        row = self._rows.pop(sequence_id, None)
        if row is not None:
            run = row.run
            run.sequence_count -= 1
            freed = 1 if run.sequence_count else run.row_count
            run.row_count -= freed
            self.outstanding -= freed
            if run.generation in self._preemptible:
                self._preemptible_rows -= freed
            if not run.sequence_count:
                self._preemptible.pop(run.generation, None)
        return row
