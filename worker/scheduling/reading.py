"""The prefill group as the scheduler sees it: which roots are being read, and how far. Pure."""

from itertools import pairwise

from ..domain.plan import Chunk
from ..domain.sequence import Root, Sequence, Status


class Reading:
    """Roots that are read together, right-aligned, chunk of columns by chunk of columns."""

    def __init__(self) -> None:
        self.roots: list[Root] = []
        """Longest first; empty: no group."""
        self.size = 0
        """Columns times rows of the group as it was opened."""
        self._width = 0
        self._end = 0

    @property
    def remaining(self) -> int:
        """Columns that have not been read."""
        return self._width - self._end

    @property
    def rows(self) -> list[Sequence]:
        """The rows that the roots fork into."""
        return [sequence for root in self.roots for sequence in root.sequences]

    def open(self, roots: list[Root]) -> list[Root]:
        """Begins a group; returns it, longest first."""
        self.roots = sorted(roots, key=lambda root: len(root.tokens), reverse=True)
        self._width = len(self.roots[0].tokens) if roots else 0
        self._end = 0
        self.size = self._width * len(roots)
        for row in self.rows:
            row.status = Status.PREFILLING
        return self.roots

    def settle(self) -> list[int] | None:
        """Drops roots whose rows have all left; returns which remain, None if all do."""
        staying = [index for index, root in enumerate(self.roots) if root.is_wanted]
        unchanged = len(staying) == len(self.roots)
        self.roots = [self.roots[index] for index in staying]
        return None if unchanged else staying

    def next_chunk(self, budget: int | None) -> Chunk | None:
        """Returns the columns to read next; None without a group.

        Args:
            budget: most tokens, padding between them included; 0: none now; None: all at once.
        """
        if not self.roots or budget == 0:
            return None
        # Where the longest root was dropped, columns follow in which nobody has a token.
        begin = max(self._end, min(self._paddings))
        return Chunk(begin, self._width if budget is None else self._end_within(begin, budget))

    def prompt_tokens(self, chunk: Chunk) -> int:
        """Returns how many tokens the roots have in a chunk, padding not counted."""
        return sum(max(0, chunk.end - max(chunk.begin, padding)) for padding in self._paddings)

    @property
    def _paddings(self) -> list[int]:
        """Columns in front of each root's first token."""
        return [self._width - len(root.tokens) for root in self.roots]

    def _end_within(self, begin: int, budget: int) -> int:
        """Returns the last end at which the rows that take part, times the columns, are at most `budget`.

        That is what a model reads that reads padding. One column is read in any case.
        """
        ends = [begin + 1]
        for rows, (start, following) in enumerate(pairwise([*sorted(self._paddings), self._width]), start=1):
            end = min(following, begin + budget // rows)
            if end > start:
                ends.append(end)
        return max(ends)

    def advance(self, chunk: Chunk) -> list[Root]:
        """Counts in a chunk; if that completes the group, ends it and returns its roots."""
        self._end = chunk.end
        if chunk.end < self._width:
            return []
        joining, self.roots = self.roots, []
        for root in joining:
            for row in root.sequences:
                row.status = Status.RUNNING
        return joining
