"""Decides what the next engine step does. Pure: it knows counts and lengths, no tensors, clocks or threads.

A sequence waits until rows are free, is prefilled in a left-padded group, chunk by chunk between decode steps, joins
the running batch, and leaves it when it ends. There is one group at a time; it is served in order of arrival.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from .sequence import Sequence, Status


@dataclass(frozen=True)
class Limits:
    """What the engine's memory and the model allow."""

    max_rows: int
    """Most sequences in batch and group together."""
    context_length: int
    """Most tokens, prompt and output together, of one sequence."""
    group_tokens: int
    """Most columns times rows of a prefill group; at least context_length."""
    chunk_tokens: int = 256
    """Most tokens of a prefill chunk while rows are running, who wait for it."""
    idle_chunk_tokens: int = 1024
    """Most tokens of a prefill chunk while no row is running."""


@dataclass(frozen=True)
class Chunk:
    """Columns [begin, end) of the prefill group."""

    begin: int
    end: int


@dataclass(frozen=True)
class Plan:
    """What one step does, in this order; rows are counted as they are after the rows before."""

    batch_rows: list[int] | None = None
    """Rows of the batch that stay, in their new order; None: all stay."""
    group_rows: list[int] | None = None
    """Rows of the prefill group that stay; None: all stay. Empty: the group is dropped."""
    opening: list[Sequence] = field(default_factory=list)
    """Sequences of a new prefill group, longest prompt first."""
    decoding: list[Sequence] = field(default_factory=list)
    """The running rows, who get a token."""
    chunk: Chunk | None = None
    """Part of the group to prefill."""
    joining: list[Sequence] = field(default_factory=list)
    """The group, if the chunk completes it: it joins the batch, and gets its first tokens."""

    @property
    def sampled(self) -> list[Sequence]:
        """Who gets a token, in the order of the logits' rows."""
        return self.decoding + self.joining

    @property
    def is_empty(self) -> bool:
        return not self.decoding and self.chunk is None and self.batch_rows is None and self.group_rows is None


class Scheduler:
    """The queue, the group and the batch, as lists of sequences."""

    def __init__(self, limits: Limits, eos_token_ids: Collection[int]) -> None:
        self.limits = limits
        self.eos_token_ids = frozenset(eos_token_ids)
        self.waiting: deque[Sequence] = deque()
        self.group: list[Sequence] = []
        self.running: list[Sequence] = []
        self._prefilled = 0
        self._group_width = 0

    def submit(self, sequence: Sequence) -> None:
        """Queues a sequence. Raises ValueError if it can never fit, naming both numbers."""
        needed = len(sequence.prompt) + sequence.parameters.max_new_tokens
        if needed > self.limits.context_length:
            raise ValueError(f"{needed} tokens asked for, {self.limits.context_length} fit")
        self.waiting.append(sequence)

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Marks sequences; the next plan drops them. Ended ones are left alone."""
        for sequence in sequences:
            if not sequence.is_finished:
                sequence.status = Status.CANCELLED

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.group or self.running)

    def schedule(self) -> Plan:
        """Returns the next step's plan, and moves the sequences as if it had been carried out."""
        batch_rows, group_rows = self._drop_finished()
        opening = self._open_group() if not self.group else []
        chunk = self._next_chunk()
        decoding = self.running
        joining = self._advance_group(chunk) if chunk else []
        return Plan(batch_rows, group_rows, opening, decoding, chunk, joining)

    def update(self, plan: Plan, tokens: list[int], finite: list[bool]) -> list[Sequence]:
        """Gives each sampled sequence its token, or fails it if its logits were not finite.

        Returns the sequences that got a token or failed, in the plan's order.
        """
        for sequence, token, is_finite in zip(plan.sampled, tokens, finite, strict=True):
            if sequence.is_finished:
                continue
            if is_finite:
                sequence.append(token, self.eos_token_ids)
            else:
                sequence.fail("NON_FINITE_LOGITS")
        return [sequence for sequence in plan.sampled if sequence.status is not Status.CANCELLED]

    def drop_all(self) -> list[Sequence]:
        """Empties everything and returns what had not ended."""
        dropped = [s for s in (*self.waiting, *self.group, *self.running) if not s.is_finished]
        self.waiting.clear()
        self.group, self.running, self._prefilled = [], [], 0
        return dropped

    def _drop_finished(self) -> tuple[list[int] | None, list[int] | None]:
        self.waiting = deque(s for s in self.waiting if not s.is_finished)
        batch_rows = compact([not s.is_finished for s in self.running])
        group_rows = [row for row, s in enumerate(self.group) if not s.is_finished]
        group_changed = len(group_rows) < len(self.group)
        if batch_rows is not None:
            self.running = [self.running[row] for row in batch_rows]
        self.group = [self.group[row] for row in group_rows]
        return batch_rows, group_rows if group_changed else None

    def _open_group(self) -> list[Sequence]:
        free = self.limits.max_rows - len(self.running)
        chosen: list[Sequence] = []
        width = 0
        while self.waiting and len(chosen) < free:
            wider = max(width, len(self.waiting[0].prompt))
            if wider * (len(chosen) + 1) > self.limits.group_tokens:
                break
            width = wider
            chosen.append(self.waiting.popleft())
        chosen.sort(key=lambda s: len(s.prompt), reverse=True)
        for sequence in chosen:
            sequence.status = Status.PREFILLING
        self.group, self._prefilled, self._group_width = chosen, 0, width
        return chosen

    def _next_chunk(self) -> Chunk | None:
        if not self.group:
            return None
        budget = self.limits.chunk_tokens if self.running else self.limits.idle_chunk_tokens
        columns = max(1, budget // len(self.group))
        # Where the longest prompt was cancelled, columns follow in which nobody has a token.
        begin = max(self._prefilled, self._group_width - len(self.group[0].prompt))
        return Chunk(begin, min(self._group_width, begin + columns))

    def _advance_group(self, chunk: Chunk) -> list[Sequence]:
        """Counts in a chunk; returns the group if that completes it."""
        self._prefilled = chunk.end
        if chunk.end < self._group_width:
            return []
        joining, self.group = self.group, []
        for sequence in joining:
            sequence.status = Status.RUNNING
        self.running = self.running + joining
        return joining


def compact(keep: list[bool]) -> list[int] | None:
    """Returns which row to take for each remaining row, so that each leaving row is replaced by the last one.

    None if all rows stay. Fewest moves: a row that stays keeps its place unless it fills a gap.
    """
    if all(keep):
        return None
    count = sum(keep)
    movers = [row for row in range(len(keep) - 1, count - 1, -1) if keep[row]]
    return [row if keep[row] else movers.pop(0) for row in range(count)]
