"""The sequences of this gateway on one worker, for as long as one stream to it lasts."""

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import generation_failed, worker_lost
from .generation import Generation
from .outbox import Outbox
from .routing import WorkerLoad
from .sequence import Sequence, Status
from .worker_messages import Finish, Start, Step


@dataclass(frozen=True, slots=True)
class _Row:
    sequence: Sequence
    generation: Generation


class Session:
    """Keeps account of what is outstanding on a worker, and hands the tokens that come from it to their sequences.

    Args:
        worker: Name of the worker.
        outbox: Where it puts what the worker is to be told.
    """

    def __init__(self, worker: str, outbox: Outbox) -> None:
        self.worker = worker
        self.sequence_limit = 0
        """Most sequences that may be outstanding, as the worker last said."""
        self.draining = False
        """Whether the worker takes nothing new."""
        self._outbox = outbox
        self._rows: dict[int, _Row] = {}
        self._served = 0

    @property
    def load(self) -> WorkerLoad:
        """For `routing`; a worker that drains has no room."""
        limit = 0 if self.draining else self.sequence_limit
        return WorkerLoad(self.worker, outstanding=len(self._rows), limit=limit, served=self._served)

    def submit(self, generation: Generation, now: float) -> None:
        """Sends a generation to the worker."""
        generation.submit(self.worker, now)
        self._rows.update((sequence.sequence_id, _Row(sequence, generation)) for sequence in generation.sequences)
        self._served += 1
        self._outbox.submit(generation)

    def drop(self, generation: Generation) -> None:
        """Takes back what of a generation is still outstanding."""
        ids = [sequence.sequence_id for sequence in generation.sequences]
        if dropped := [sequence_id for sequence_id in ids if self._rows.pop(sequence_id, None)]:
            self._outbox.cancel(dropped)

    def tell_demand(self, queued_count: int) -> None:
        """Tells the worker how many sequences wait for any worker."""
        self._outbox.tell_demand(queued_count)

    def step(self, step: Step, now: float) -> None:
        """Takes in the outcome of an engine step. What belongs to sequences that have left is dropped."""
        self._start(step.starts)
        rows = self._rows
        for sequence_id, token_id in zip(step.sequence_ids, step.token_ids, strict=True):
            row = rows.get(sequence_id)
            if row is None:
                continue
            row.sequence.push(token_id, now)
            if row.sequence.finished:
                del rows[sequence_id]
                self._outbox.cancel((sequence_id,))
            row.generation.on_change()
        self._finish(step.finishes)

    def close(self, why: str) -> list[Generation]:
        """Ends everything that is outstanding with WORKER_LOST.

        Returns what is to be queued again instead: what reached a worker that was draining, and never began there.
        """
        generations = {id(row.generation): row.generation for row in self._rows.values()}
        self._rows.clear()
        untouched: list[Generation] = []
        for generation in generations.values():
            if self.draining and generation.output_token_count == 0:
                untouched.append(generation)
            else:
                generation.fail(worker_lost(self.worker, why))
        return untouched

    def _start(self, starts: Iterable[Start]) -> None:
        for start in starts:
            if row := self._rows.get(start.sequence_id):
                row.sequence.start(start.wait_s, start.prefill_s)

    def _finish(self, finishes: Iterable[Finish]) -> None:
        for finish in finishes:
            row = self._rows.pop(finish.sequence_id, None)
            if row is None:
                continue
            if finish.status is Status.FAILED:
                row.generation.fail(generation_failed(finish.error))
                self.drop(row.generation)
            else:
                row.sequence.finish(finish.status)
                row.generation.on_change()
