"""Finds out for whom a step fails. Pure.

A step that raises does not say who made it fail. So its rows are computed again together, for the device may have had
its moment; if a step fails once more, one half and then the other, and so on down to single rows. What runs through a
step of decoding is acquitted, and whoever fails alone is to blame. Nobody else is in memory meanwhile: an innocent row
could not be told from a guilty one.
"""

from collections import deque
from collections.abc import Iterable

from ..domain.sequence import Beams, Root, Sequence

Unit = Sequence | Beams
"""What fails as a whole."""


class Trial:
    """Who is being tried, and who is to be tried next."""

    def __init__(self) -> None:
        self._tried: set[Unit] = set()
        self._next: deque[list[Root]] = deque()
        self._fewest = 0
        """Rows of the smallest group that has failed; 0 as soon as a guilty one is found."""

    def __bool__(self) -> bool:
        """Whether one is under way: then only who is `admitted` may be in memory."""
        return bool(self._tried)

    def is_admitted(self, root: Root) -> bool:
        """Returns whether a root may have rows now."""
        return not self._tried or _unit(root.sequences[0]) in self._tried

    def blames(self, rows: Iterable[Sequence]) -> bool:
        """Returns whether rows of a step that has failed are to blame: one sequence, or one beam search, on trial."""
        return bool(self._tried) and len({_unit(row) for row in rows}) == 1

    def step_failed(self, roots: list[Root]) -> None:
        """Tries again what a failed step had in memory: together, or half by half if it has been tried together."""
        if self._tried:
            middle = (len(roots) + 1) // 2
            self._next.extendleft([roots[middle:], roots[:middle]])
            self._fewest = sum(len(root.sequences) for root in roots)
        else:
            self._next.appendleft(roots)
        self._tried = set()

    def step_succeeded(self, decoding: Iterable[Sequence]) -> None:
        """Acquits those on trial if they have all decoded, or ended."""
        decoded = {_unit(row) for row in decoding}
        if all(unit.is_finished or unit in decoded for unit in self._tried):
            self._tried = set()

    def go_on(self) -> bool:
        """Goes on to the next group once the last one has been tried; returns whether it has: all others must leave."""
        if any(not unit.is_finished for unit in self._tried):
            return False
        self._tried = set()
        while self._next and not self._tried:
            self._tried = {_unit(row) for root in self._next.popleft() for row in root.sequences if not row.is_finished}
        return bool(self._tried)

    def too_many_rows(self) -> int:
        """Returns how many rows failed together though none did alone, once the trial is over; 0: none, or not yet."""
        if self._tried or self._next:
            return 0
        fewest, self._fewest = self._fewest, 0
        return fewest


def _unit(row: Sequence) -> Unit:
    return row.beams or row
