"""What follows from a step that has failed: less is attempted at once, or it is found out for whom it fails. Pure.

The memory for keys and values is allocated at start; what a step needs beside it, for activations and logits, grows
with its rows and with the tokens that it reads, and is not known before. So after an allocation has failed half as much
is tried, and what went well for a while is doubled again: for ever longer whiles, because each failure costs everybody
the way back.

A step that raises something else does not say who made it fail. So its rows are computed again together, for the device
may have had its moment; if a step fails once more, one half and then the other, and so on down to single rows. What
runs through a step of decoding is acquitted, and whoever fails alone is to blame. Nobody else is in memory meanwhile:
an innocent row could not be told from a guilty one.
"""

from collections import deque
from collections.abc import Iterable

from ..domain.sequence import Beams, Root, Sequence

_PATIENCE, _MOST_PATIENCE = 256, 1 << 20
"""Steps that must go well before the limits are doubled: at first, and at most."""
Unit = Sequence | Beams
"""What fails as a whole."""


class Pressure:
    """Limits that shrink when an allocation fails, and recover."""

    def __init__(self, rows: int, tokens: int) -> None:
        """Starts without pressure.

        Args:
            rows: most rows of batch and group together, at least 1.
            tokens: most tokens of a prefill chunk, at least 1.
        """
        self._most_rows, self._most_tokens = rows, tokens
        self.rows, self.tokens = rows, tokens
        self._good_steps = 0
        self._patience = _PATIENCE // 2

    def step_failed(self, rows: int, tokens: int) -> None:
        """Halves what was tried: a step with so many rows in batch and group, reading so many tokens."""
        self.rows = max(1, min(self.rows, rows) // 2)
        self.tokens = max(1, min(self.tokens, tokens or self.tokens) // 2)
        self._good_steps = 0
        self._patience = min(2 * self._patience, _MOST_PATIENCE)

    def step_succeeded(self) -> None:
        """Doubles the limits after a number of steps without a failure."""
        self._good_steps += 1
        if self._good_steps >= self._patience:
            self.rows = min(self._most_rows, 2 * self.rows)
            self.tokens = min(self._most_tokens, 2 * self.tokens)
            self._good_steps = 0


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
