"""The sequences of this gateway on one worker, for as long as one stream to it lasts."""

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import generation_failed
from .generation import Generation
from .outbox import Outbox
from .routing import WorkerLoad, rows_of
from .sequence import Sequence, Status
from .worker_messages import Finish, PromptLogprobs, Start, Step


@dataclass(slots=True, eq=False)
class _Run:
    """A generation on the worker: how many of its sequences have not ended, and the rows that it still takes."""

    generation: Generation
    sequence_count: int
    row_count: int


@dataclass(frozen=True, slots=True)
class _Row:
    sequence: Sequence
    run: _Run


class Session:
    """Keeps account of what is outstanding on a worker, and hands what comes from it to their sequences.

    Args:
        worker: Name of the worker.
        outbox: Where it puts what the worker is to be told.
    """

    def __init__(self, worker: str, outbox: Outbox) -> None:
        self.worker = worker
        self.row_limit = 0
        """Most rows that may be outstanding, as the worker last said."""
        self.draining = False
        """Whether the worker takes nothing new."""
        self._outbox = outbox
        self._rows: dict[int, _Row] = {}
        self._outstanding = 0
        self._served = 0

    @property
    def load(self) -> WorkerLoad:
        """For `routing`; a worker that drains has no room."""
        limit = 0 if self.draining else self.row_limit
        return WorkerLoad(self.worker, outstanding=self._outstanding, limit=limit, served=self._served)

    def submit(self, generation: Generation, now: float) -> None:
        """Sends what of a generation has not ended to the worker.

        Raises ValueError if some of it is there already: a worker would not know which of the two it is told about.
        """
        sequences = generation.unfinished
        if any(sequence.sequence_id in self._rows for sequence in sequences):
            raise ValueError(f"{self.worker} runs sequence {sequences[0].sequence_id} already")
        run = _Run(generation, len(sequences), rows_of(generation))
        generation.submit(self.worker, now)
        self._rows.update((sequence.sequence_id, _Row(sequence, run)) for sequence in sequences)
        self._outstanding += run.row_count
        self._served += 1
        self._outbox.submit(generation)

    def drop(self, generation: Generation) -> None:
        """Takes back what of a generation is still outstanding."""
        ids = [sequence.sequence_id for sequence in generation.sequences]
        if dropped := [sequence_id for sequence_id in ids if self._leave(sequence_id)]:
            self._outbox.cancel(dropped)

    def tell_demand(self, row_count: int) -> None:
        """Tells the worker how many rows wait for any worker."""
        self._outbox.tell_demand(row_count)

    def step(self, step: Step, now: float) -> None:
        """Takes in the outcome of engine steps. What belongs to sequences that have left is dropped."""
        self._start(step.starts)
        for sequence_id, token_id, logprob in step.tokens():
            row = self._rows.get(sequence_id)
            if row is None:
                continue
            row.sequence.push(token_id, now, logprob)
            if row.sequence.finished:
                self._leave(sequence_id)
                self._outbox.cancel((sequence_id,))
            row.run.generation.on_change()
        self._finish(step.finishes)

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
        self._outstanding = 0
        return list(generations)

    def _start(self, starts: Iterable[Start]) -> None:
        for start in starts:
            if row := self._rows.get(start.sequence_id):
                row.sequence.start(start.wait_s, start.prefill_s)

    def _finish(self, finishes: Iterable[Finish]) -> None:
        for finish in finishes:
            row = self._leave(finish.sequence_id)
            if row is None:
                continue
            generation = row.run.generation
            if finish.status is Status.FAILED:
                generation.fail(generation_failed(finish.error))
                self.drop(generation)
            else:
                row.sequence.finish(finish.status, finish.score)
                generation.on_change()

    def _leave(self, sequence_id: int) -> _Row | None:
        """Frees the room of a sequence; beams that are more than the sequences go with the last one."""
        row = self._rows.pop(sequence_id, None)
        if row is not None:
            run = row.run
            run.sequence_count -= 1
            freed = 1 if run.sequence_count else run.row_count
            run.row_count -= freed
            self._outstanding -= freed
        return row
