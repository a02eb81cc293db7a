"""Decides what the next engine step does. Pure: it knows counts and lengths, no tensors, clocks or threads.

A root waits until its rows fit into the memory, is prefilled in a left-padded group, chunk by chunk between decode
steps, and forks into the running batch, whose rows leave it when they end. Roots are served in order of arrival, those
of a higher priority as if they had come somewhat earlier. One group is read at a time, of prompts that are about
equally long or read in one chunk; one of short prompts, or of better ones, may pass one that is being read. Where a row
grows wider than the memory allows, the youngest row of the lowest priority is preempted: it waits again, first in the
queue, and is prefilled with what it has generated so far. What a step failed with is computed again, see Trial.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from ..domain.plan import Plan, View, compact
from ..domain.sequence import Beams, Root, Sequence, Status, fail_all, reported
from .chunk_budget import ChunkBudget
from .reading import Reading
from .recovery import Pressure, Trial
from .views import choose

_LEAST_HEADROOM = 16
_SHORT = 4
"""A prompt is short beside another that is more than so many times as long: it does not wait for it."""


@dataclass(frozen=True)
class Limits:
    """What the engine's memory and the model allow."""

    max_rows: int
    """Most rows in batch and group together."""
    context_length: int
    """Most tokens, prompt and output together, of one sequence."""
    pool_tokens: int
    """Tokens that the memory of the batch holds, padding included; at least context_length."""
    group_tokens: int
    """Most columns times rows of a prefill group; at least context_length."""
    chunk_tokens: int = 256
    """Most tokens, padding included, of a prefill chunk while rows are running, who wait for it; see ChunkBudget."""
    idle_chunk_tokens: int = 1024
    """Most tokens, padding included, of a prefill chunk while no row is running."""
    logprob_chunk_tokens: int = 128
    """Most tokens of a prefill chunk with a prompt whose log-probabilities are reported."""
    prefills_whole: bool = False
    """Whether a group must be read in one chunk, because recurrent state cannot go on from one to the next."""

    @property
    def shared_group_tokens(self) -> int:
        """Most columns times rows of a prefill group of several prompts.

        Those that are read whole make no longer step than an idle engine's; others leave memory for those who pass.
        """
        if self.prefills_whole:
            return min(self.group_tokens, self.idle_chunk_tokens)
        return self.group_tokens - self.group_tokens // 8


class Scheduler:
    """The queue, the group and the batch, as lists of roots and sequences."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Root] = deque()
        self.reading = Reading()
        self.passed = Reading()
        """What is read on when the group that has passed it is complete."""
        self.running: list[Sequence] = []
        self.view = View(0, 0)
        self.pressure = Pressure(limits.max_rows, limits.idle_chunk_tokens)
        self.chunk_budget = ChunkBudget()
        self.trial = Trial()
        self.preemptions = 0
        """How often a row had to give way and wait again."""
        self._lead = 0
        """Tokens that have passed others, over those that the passed ones have read since."""
        self._sources: dict[int, int] = {}
        """Rows whose memory is that of another row, since a beam search went on from there."""

    def submit(self, root: Root) -> None:
        """Queues a root. Raises ValueError if it can never fit, naming both numbers."""
        first = root.sequences[0]
        needed = len(first.prompt) + first.parameters.max_new_tokens
        if needed > self.limits.context_length:
            raise ValueError(f"{needed} tokens asked for, {self.limits.context_length} fit")
        if first.beams and not self._choose(len(root.sequences), needed):
            raise ValueError(
                f"{len(root.sequences)} beams of {needed} tokens asked for, {self.limits.pool_tokens} tokens fit"
            )
        place = len(self.waiting)
        while place and turn(root) < turn(self.waiting[place - 1]):
            place -= 1
        self.waiting.insert(place, root)

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Marks sequences; the next plan drops them. Ended ones are left alone."""
        for sequence in sequences:
            if not sequence.is_finished:
                sequence.status = Status.CANCELLED

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.reading.roots or self.running)

    def schedule(self) -> Plan:
        """Returns the next step's plan, and moves the sequences as if it had been carried out."""
        self._prune()
        view = self.view
        if self.trial.go_on():
            self._preempt_rows(self._rows_in_memory())
        self._make_room()
        batch_rows, group_rows, passed_rows = self._settle_batch(), self.reading.settle(), self.passed.settle()
        self._resume_passed()
        opening = self._open_group()
        chunk, reading = self.reading.next_chunk(self._budget()), self.reading.roots
        tokens = self.reading.prompt_tokens(chunk) if chunk else 0
        self._lead = max(0, self._lead + (tokens if self.passed.roots else -tokens))
        decoding = self.running
        joining = self.reading.advance(chunk) if chunk else []
        self._resume_passed()
        self.running = decoding + [row for root in joining for row in root.sequences]
        changed = self.view if self.view != view else None
        return Plan(batch_rows, group_rows, passed_rows, changed, opening, decoding, chunk, tokens, reading, joining)

    def update(self, sequence: Sequence, token: int | None) -> bool:
        """Gives a sampled sequence its token, or fails it if it is None: its logits were not finite.

        Returns whether that is to be reported: not if it has been cancelled meanwhile.
        """
        if sequence.is_finished:
            return False
        if token is None:
            sequence.fail("NON_FINITE_LOGITS")
        else:
            sequence.append(token)
        return True

    def advance_beams(self, beams: Beams, parents: Rows[int], outputs: Rows[list[int]]) -> list[Sequence]:
        """Puts new rows in the place of a beam search's rows: beam i goes on from what beam parents[i] was.

        Returns the new rows, by beam.
        """
        places = [place for place, row in enumerate(self.running) if row.beams is beams]
        places.sort(key=lambda place: self.running[place].beam_index)
        rows = beams.rows()
        running = list(self.running)
        for place, row, parent, output in zip(places, rows, parents, outputs, strict=True):
            row.output, row.status = output, Status.RUNNING
            running[place] = row
            self._sources[place] = places[parent]
        self.running = running
        return rows

    def conclude_beams(self, beams: Beams, results: Rows[tuple[list[int], float]]) -> list[Sequence]:
        """Gives the candidates of a beam search that has ended their tokens and scores; returns them."""
        wanted = [candidate for candidate in beams.candidates if not candidate.is_finished]
        for candidate, (tokens, score) in zip(beams.candidates, results, strict=True):
            if candidate in wanted:
                candidate.conclude(tokens, score)
        return wanted

    def fail_beams(self, beams: Beams) -> list[Sequence]:
        """Fails the candidates of a beam search whose logits were not finite; returns them."""
        return fail_all([candidate for candidate in beams.candidates if not candidate.is_finished], "NON_FINITE_LOGITS")

    def step_succeeded(self, plan: Plan, seconds: float) -> None:
        """Learns from a step that was run."""
        self.pressure.step_succeeded()
        self.trial.step_succeeded(plan.decoding)
        if rows := self.trial.too_many_rows():
            self.pressure.step_failed(rows, 0)
        self.chunk_budget.observe(rows=len(plan.decoding), prompt_tokens=plan.prompt_tokens, seconds=seconds)

    def preempt_all(self, plan: Plan, *, shrinks: bool = True) -> list[Sequence]:
        """Makes everything in the group and the batch wait again, after an allocation in the plan's step has failed.

        If it shrinks, less is tried at once from then on. Returns the sequences that failed instead, because less is
        not possible.
        """
        self._undo(plan)
        rows = self._rows_in_memory()
        failed = self._fail_if_least(rows, plan) if shrinks else []
        if shrinks:
            self.pressure.step_failed(len(rows), plan.prompt_tokens)
        self._preempt_rows(rows)
        self._forget_rows()
        return failed

    def try_again(self, plan: Plan) -> list[Sequence]:
        """Makes everything in the group and the batch wait again, to find out for whom a plan's step has failed.

        Returns the sequences that are to blame, which have failed.
        """
        self._undo(plan)
        rows = self._rows_in_memory()
        failed = fail_all(reported(rows), "ENGINE_ERROR") if self.trial.blames(rows) else []
        roots = self._preempt_rows(rows)
        self.trial.step_failed(self._divide(roots[0]) if len(roots) == 1 and roots[0].is_divisible else roots)
        self._forget_rows()
        return failed

    def _undo(self, plan: Plan) -> None:
        """Makes what a plan has completed a group again."""
        joined = set(plan.joining_rows)
        self.running = [row for row in self.running if row not in joined]
        self.reading.roots = [*plan.joining, *self.reading.roots]

    def _fail_if_least(self, rows: list[Sequence], plan: Plan) -> list[Sequence]:
        """Fails what was tried alone, unless it can be read in smaller chunks; returns whom that is reported to."""
        alone = len({id(row.beams or row) for row in rows}) == 1
        if not alone or (plan.prompt_tokens > 1 and not self.limits.prefills_whole):
            return []
        return fail_all(reported(rows), "OUT_OF_MEMORY")

    def _forget_rows(self) -> None:
        self.running, self._sources = [], {}
        self.reading, self.passed = Reading(), Reading()
        self.view = View(0, 0)

    def _prune(self) -> None:
        """Drops what has ended from the queue, and from the roots of the group."""
        self.waiting = deque(root for root in self.waiting if root.prune())
        for root in self._groups_roots:
            root.prune()

    @property
    def _groups_roots(self) -> list[Root]:
        """What is being read, passed or not."""
        return self.reading.roots + self.passed.roots

    def _rows_in_memory(self) -> list[Sequence]:
        """Returns the rows of groups and batch that have not ended and are not preempted."""
        rows = [row for root in self._groups_roots for row in root.sequences]
        return [row for row in self.running + rows if row.is_in_memory]

    def _make_room(self) -> None:
        """Sees to it that the group and the batch, each row one token longer, have a view; preempts rows if need be."""
        while rows := self._rows_in_memory():
            view = self._fitting(len(rows), max(row.length for row in rows))
            if view:
                self.view = view
                return
            self._preempt(max(rows, key=precedence))

    def _fitting(self, rows: int, width: int) -> View | None:
        """Returns a view for so many rows and columns, the present one if it will do."""
        return self.view if self.view.fits(rows, width) else self._choose(rows, width)

    def _choose(self, rows: int, width: int) -> View | None:
        most, tokens = self.limits.max_rows, self.limits.pool_tokens
        return choose(tokens, rows, width, max_rows=most) if rows <= most else None

    def _preempt_rows(self, rows: list[Sequence]) -> list[Root]:
        """Makes rows wait again; returns the roots that they wait as."""
        before = len(self.waiting)
        for row in sorted(rows, key=precedence, reverse=True):
            self._preempt(row)
        return list(self.waiting)[: len(self.waiting) - before]

    def _preempt(self, row: Sequence) -> None:
        """Makes a row wait again, with all others of its beam search or of its root in the group."""
        if not row.is_in_memory:
            return
        self.preemptions += 1
        root = next((root for root in self._groups_roots if row in root.sequences), None)
        if root is None and row.beams:
            root = Root(row.prompt, row.beams.rows())
            self._retire(row.beams)
        elif root is None:
            root = Root(row.prompt + row.output, [row])
        for sequence in root.sequences:
            sequence.status = Status.WAITING
        self.waiting.appendleft(root)

    def _retire(self, beams: Beams) -> None:
        for row in self.running:
            if row.beams is beams:
                row.status = Status.WAITING

    def _settle_batch(self) -> list[int] | None:
        """Drops rows that have ended or wait again; returns where each remaining row's memory is."""
        order = compact([row.is_in_memory for row in self.running])
        sources = [self._sources.get(row, row) for row in order]
        unchanged = sources == list(range(len(self.running)))
        self.running = [self.running[row] for row in order]
        self._sources = {}
        return None if unchanged else sources

    def _resume_passed(self) -> None:
        if not self.reading.roots:
            self.reading, self.passed = self.passed, Reading()

    def _open_group(self) -> list[Root]:
        """Opens a group, if none is being read, or one that passes that."""
        passing = bool(self.reading.roots)
        if passing and (self.passed.roots or self.limits.prefills_whole or self.trial):
            return []
        chosen: list[Root] = []
        for root in self._passing() if passing else self._admitted():
            view = self._view_with([*chosen, root])
            if view is None:
                break
            self.view = view
            chosen.append(root)
            self.waiting.remove(root)
        if passing and chosen:
            self.passed, self.reading = self.reading, Reading()
        return self.reading.open(chosen) if chosen else []

    def _admitted(self) -> list[Root]:
        """Returns who may be read now, in turn; the first one in a part that fits, if its rows do not all fit alone."""
        admitted = [root for root in self.waiting if self.trial.is_admitted(root)]
        while admitted and admitted[0].is_divisible and not self.running and self._view_with(admitted[:1]) is None:
            admitted[:1] = self._divide(admitted[0])
        return admitted

    def _passing(self) -> list[Root]:
        """Returns who need not wait for the group that is being read, in turn.

        A short one need not, unless others have passed that have cost the group more than it has read since; nor one
        that would have been served before it.
        """
        longest = 0 if self._lead else (self.reading.remaining - 1) // _SHORT
        earliest = min(turn(each) for each in self.reading.roots)
        passing = [root for root in self.waiting if len(root.tokens) <= longest or turn(root) < earliest]
        return [root for root in passing if self._can_be_read([root])]

    def _view_with(self, group: list[Root]) -> View | None:
        """Returns a view that holds the batch and a group, with room to grow; None if there is none."""
        rows = self.running + self.reading.rows + [row for root in group for row in root.sequences]
        first = len(group) == 1 and len(rows) == len(group[0].sequences)
        indivisible = first and not group[0].is_divisible
        if not self._can_be_read(group) or (len(rows) > self.pressure.rows and not indivisible):
            return None
        longest = max(row.length for row in rows)
        return self._fitting(len(rows), longest + (1 if first else self._headroom(rows, longest)))

    def _can_be_read(self, group: list[Root]) -> bool:
        """Returns whether prompts can be read as one group, and none of them would wait for one much longer."""
        limits, lengths = self.limits, [len(root.tokens) for root in group]
        size = max(lengths) * len(group)
        if size > limits.group_tokens - self.reading.size:
            return False
        if len(group) == 1:
            return True
        if limits.prefills_whole and any(root.wants_prompt_logprobs for root in group):
            return size <= limits.logprob_chunk_tokens  # its logits are all in memory at once
        is_even = min(lengths) * _SHORT >= max(lengths)
        return size <= limits.shared_group_tokens and (is_even or size <= limits.idle_chunk_tokens)

    def _headroom(self, rows: Rows[Sequence], longest: int) -> int:
        """Returns columns to keep free beside the longest row, so that who is let in is not soon preempted."""
        remaining = max(row.parameters.max_new_tokens - len(row.output) for row in rows)
        if any(row.beams for row in rows):
            return min(remaining, self.limits.context_length - longest)  # one that gives way has to begin again
        return min(remaining, max(_LEAST_HEADROOM, longest // 8))

    def _divide(self, root: Root) -> list[Root]:
        """Puts two halves, which may run at different times, in the place of a root that waits; returns them."""
        half, place = len(root.sequences) // 2, self.waiting.index(root)
        halves = [
            Root(root.tokens, root.sequences[:half], root.prompt_logprobs, root.reported),
            Root(root.tokens, root.sequences[half:]),
        ]
        self.waiting[place] = halves[0]
        self.waiting.insert(place + 1, halves[1])
        return halves

    def _budget(self) -> int | None:
        limits = self.limits
        if limits.prefills_whole:
            return None
        rows = len(self.running)
        wanted = self.chunk_budget.tokens(limits.chunk_tokens, rows) if rows else limits.idle_chunk_tokens
        budget = min(self.pressure.tokens, wanted)
        reporting = any(root.wants_prompt_logprobs for root in self.reading.roots)
        return min(budget, limits.logprob_chunk_tokens) if reporting else budget


_HEAD_START_S = 10.0
"""What one more in priority is worth in the queue: whoever came so much earlier is not passed, so nobody starves."""


def turn(root: Root) -> float:
    """Orders roots that wait: by arrival, those of a higher priority as if they had come earlier, in seconds."""
    first = root.sequences[0]
    return first.arrived_at - _HEAD_START_S * first.priority


def precedence(row: Sequence) -> tuple[int, float]:
    """Orders rows by who gives way last: those of a higher priority, then older ones."""
    return (-row.priority, row.arrived_at)
