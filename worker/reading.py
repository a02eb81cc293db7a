"""The prefill group as the scheduler sees it: which roots are being read, and how far. Pure."""

from .plan import Chunk
from .sequence import Root, Sequence, Status


class Reading:
    """Roots that are read together, right-aligned, chunk of columns by chunk of columns."""

    def __init__(self) -> None:
        self.roots: list[Root] = []
        """Longest first; empty: no group."""
        self._width = 0
        self._end = 0

    @property
    def rows(self) -> list[Sequence]:
        """The rows that the roots fork into."""
        return [sequence for root in self.roots for sequence in root.sequences]

    def open(self, roots: list[Root]) -> list[Root]:
        """Begins a group; returns it, longest first."""
        self.roots = sorted(roots, key=lambda root: len(root.tokens), reverse=True)
        self._width = len(self.roots[0].tokens) if roots else 0
        self._end = 0
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
            budget: most tokens, at least 1; None: all at once.
        """
        if not self.roots:
            return None
        longest = max(len(root.tokens) for root in self.roots)
        # Where the longest root was dropped, columns follow in which nobody has a token.
        begin = max(self._end, self._width - longest)
        columns = self._width if budget is None else max(1, budget // len(self.roots))
        return Chunk(begin, min(self._width, begin + columns))

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
