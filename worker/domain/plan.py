"""What one engine step does, as the scheduler decided it. Pure."""

from dataclasses import dataclass, field

from .sequence import Root, Sequence


@dataclass(frozen=True)
class View:
    """A pool of tokens as rows and columns."""

    rows: int
    columns: int

    def fits(self, rows: int, width: int) -> bool:
        """Returns whether so many rows of so many columns are in it."""
        return rows <= self.rows and width <= self.columns


@dataclass(frozen=True)
class Chunk:
    """Columns [begin, end) of the prefill group."""

    begin: int
    end: int


@dataclass(frozen=True)
class Plan:
    """What one step does, in this order; rows are counted as they are after the rows before."""

    batch_rows: list[int] | None = None
    """Which row of the batch each row is to be from now on, repeats and omissions included; None: all stay."""
    group_rows: list[int] | None = None
    """Rows of the prefill group that stay; None: all stay. Empty: the group is dropped."""
    passed_rows: list[int] | None = None
    """The same of the group that the present one has passed, which takes its place as soon as that one is gone."""
    view: View | None = None
    """How the memory is viewed from now on; None: as before."""
    opening: list[Root] = field(default_factory=list)
    """Rows of a new prefill group, longest first; it passes the present one, if there is one."""
    decoding: list[Sequence] = field(default_factory=list)
    """The running rows, who get a token."""
    chunk: Chunk | None = None
    """Part of the group to prefill."""
    prompt_tokens: int = 0
    """Tokens of prompts in it, padding not counted."""
    reading: list[Root] = field(default_factory=list)
    """The group."""
    joining: list[Root] = field(default_factory=list)
    """The group, if the chunk completes it: its rows are forked into the batch, and get their first tokens."""

    @property
    def joining_rows(self) -> list[Sequence]:
        return [sequence for root in self.joining for sequence in root.sequences]

    @property
    def sampled(self) -> list[Sequence]:
        """Who gets a token: the rows of the batch as they are at the end of the step."""
        return self.decoding + self.joining_rows

    @property
    def is_empty(self) -> bool:
        rows = (self.batch_rows, self.group_rows, self.passed_rows)
        return not self.decoding and self.chunk is None and all(each is None for each in rows)


def compact(keep: list[bool]) -> list[int]:
    """Returns which row to take for each remaining row, so that each leaving row is replaced by the last one.

    Fewest moves: a row that stays keeps its place unless it fills a gap.
    """
    count = sum(keep)
    movers = [row for row in range(len(keep) - 1, count - 1, -1) if keep[row]]
    return [row if keep[row] else movers.pop(0) for row in range(count)]
