"""Decides what the next engine step does. Pure: it knows counts and lengths, no tensors, clocks or threads.

A root waits until its rows fit into the memory, is prefilled in a left-padded group, chunk by chunk between decode
steps, and forks into the running batch, whose rows leave it when they end. There is one group at a time; roots are
served in order of arrival, those of a higher priority as if they had come somewhat earlier. Where a row grows wider
than the memory allows, the youngest row of the lowest priority is preempted: it waits again, first in the queue, and is
prefilled with what it has generated so far.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from .chunk_budget import ChunkBudget
from .plan import Plan, compact
from .precedence import precedence, turn
from .pressure import Pressure
from .reading import Reading
from .sequence import Beams, Root, Sequence, Status, fail_all, reported
from .views import View, choose

_LEAST_HEADROOM = 16


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


class Scheduler:
    """The queue, the group and the batch, as lists of roots and sequences."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Root] = deque()
        self.reading = Reading()
        self.running: list[Sequence] = []
        self.view = View(0, 0)
        self.pressure = Pressure(limits.max_rows, limits.idle_chunk_tokens)
        self.chunk_budget = ChunkBudget()
        self.preemptions = 0
        """How often a row had to give way and wait again."""
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
        self._make_room()
        batch_rows, group_rows = self._settle_batch(), self.reading.settle()
        opening = [] if self.reading.roots else self._open_group()
        chunk, reading = self.reading.next_chunk(self._budget()), self.reading.roots
        tokens = self.reading.prompt_tokens(chunk) if chunk else 0
        decoding = self.running
        joining = self.reading.advance(chunk) if chunk else []
        self.running = decoding + [row for root in joining for row in root.sequences]
        changed = self.view if self.view != view else None
        return Plan(batch_rows, group_rows, changed, opening, decoding, chunk, tokens, reading, joining)

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
        self.chunk_budget.observe(rows=len(plan.decoding), prompt_tokens=plan.prompt_tokens, seconds=seconds)

    def preempt_all(self, plan: Plan) -> list[Sequence]:
        """Makes everything in the group and the batch wait again, after an allocation in the plan's step has failed.

        Less is tried at once from then on. Returns the sequences that failed instead, because less is not possible.
        """
        joined = set(plan.joining_rows)
        self.running = [row for row in self.running if row not in joined]
        self.reading.roots = plan.joining or self.reading.roots
        rows = self._staying_rows()
        failed = self._fail_if_least(rows, plan)
        self.pressure.allocation_failed(len(rows), plan.prompt_tokens)
        for row in sorted(rows, key=precedence, reverse=True):
            self._preempt(row)
        self._forget_rows()
        return failed

    def _fail_if_least(self, rows: list[Sequence], plan: Plan) -> list[Sequence]:
        """Fails what was tried alone, unless it can be read in smaller chunks; returns whom that is reported to."""
        alone = len({id(row.beams or row) for row in rows}) == 1
        if not alone or (plan.prompt_tokens > 1 and not self.limits.prefills_whole):
            return []
        return fail_all(reported(rows), "OUT_OF_MEMORY")

    def drop_rows(self) -> list[Sequence]:
        """Empties the group and the batch, and returns what had not ended; what waits goes on waiting."""
        rows = self.reading.rows + self.running
        self._forget_rows()
        return [sequence for sequence in reported(rows) if not sequence.is_finished]

    def _forget_rows(self) -> None:
        self.running, self._sources = [], {}
        self.reading = Reading()
        self.view = View(0, 0)

    def _prune(self) -> None:
        """Drops what has ended from the queue, and from the roots of the group."""
        self.waiting = deque(root for root in self.waiting if root.prune())
        for root in self.reading.roots:
            root.prune()

    def _staying_rows(self) -> list[Sequence]:
        """Returns the rows of group and batch that have not ended and are not preempted."""
        return [row for row in self.running + self.reading.rows if row.is_in_memory]

    def _make_room(self) -> None:
        """Sees to it that the group and the batch, each row one token longer, have a view; preempts rows if need be."""
        while rows := self._staying_rows():
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

    def _preempt(self, row: Sequence) -> None:
        """Makes a row wait again, with all others of its beam search or of its root in the group."""
        if not row.is_in_memory:
            return
        self.preemptions += 1
        root = next((root for root in self.reading.roots if row in root.sequences), None)
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

    def _open_group(self) -> list[Root]:
        chosen: list[Root] = []
        while self.waiting:
            view = self._view_with([*chosen, self.waiting[0]])
            if view is None and not self._divide_first(chosen):
                break
            if view:
                self.view = view
                chosen.append(self.waiting.popleft())
        return self.reading.open(chosen)

    def _view_with(self, group: list[Root]) -> View | None:
        """Returns a view that holds the batch and a group, with room to grow; None if there is none."""
        joining = [row for root in group for row in root.sequences]
        rows = self.running + joining
        width = max(len(root.tokens) for root in group)
        first = len(group) == 1 and not self.running
        indivisible = first and not group[0].is_divisible
        if width * len(group) > self._group_tokens(group) or (len(rows) > self.pressure.rows and not indivisible):
            return None
        longest = max(row.length for row in rows)
        return self._fitting(len(rows), longest + (1 if first else self._headroom(rows, longest)))

    def _group_tokens(self, group: list[Root]) -> int:
        """Returns how many columns times rows a group may have."""
        limits = self.limits
        if limits.prefills_whole and len(group) > 1 and any(root.wants_prompt_logprobs for root in group):
            return limits.logprob_chunk_tokens  # its logits are all in memory at once
        return limits.group_tokens

    def _headroom(self, rows: Rows[Sequence], longest: int) -> int:
        """Returns columns to keep free beside the longest row, so that who is let in is not soon preempted."""
        remaining = max(row.parameters.max_new_tokens - len(row.output) for row in rows)
        if any(row.beams for row in rows):
            return min(remaining, self.limits.context_length - longest)  # one that gives way has to begin again
        return min(remaining, max(_LEAST_HEADROOM, longest // 8))

    def _divide_first(self, chosen: list[Root]) -> bool:
        """Splits a root whose rows do not fit all at once even alone. Returns whether it did."""
        root = self.waiting[0]
        if chosen or self.running or not root.is_divisible:
            return False
        half = len(root.sequences) // 2
        self.waiting.appendleft(Root(root.tokens, root.sequences[:half], root.prompt_logprobs, root.reported))
        self.waiting[1] = Root(root.tokens, root.sequences[half:])
        return True

    def _budget(self) -> int | None:
        limits = self.limits
        if limits.prefills_whole:
            return None
        rows = len(self.running)
        wanted = self.chunk_budget.tokens(limits.chunk_tokens, rows) if rows else limits.idle_chunk_tokens
        budget = min(self.pressure.tokens, wanted)
        reporting = any(root.wants_prompt_logprobs for root in self.reading.roots)
        return min(budget, limits.logprob_chunk_tokens) if reporting else budget
