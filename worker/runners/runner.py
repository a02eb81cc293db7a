"""What runs the model: the engine's interface to it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..domain.plan import Chunk
from ..memory.batch import Batch
from ..memory.copies import Moves
from ..memory.group import PrefillGroup


@dataclass(frozen=True)
class Prefill:
    """Columns of a group to be read."""

    group: PrefillGroup
    chunk: Chunk
    all_positions: bool = False
    """Whether the logits of all columns are wanted, not of the last one alone."""

    @property
    def completes(self) -> bool:
        return self.chunk.end == self.group.width


@dataclass(frozen=True)
class Logits:
    """What a step's tokens were answered with; overwritten by the next step."""

    decoded: Tensor | None = None
    """[rows of the batch, vocabulary]."""
    read: Tensor | None = None
    """Of the chunk's last column, if it completes its group, [rows of the group, vocabulary]; or of all columns, for
    the rows that take part, [rows, columns, vocabulary]."""


class Runner(Protocol):
    """Runs the model on batches."""

    reads_padding: bool
    """Whether padding in a slab is read, under a mask: then it must not hold NaN."""
    moves: Moves
    """What moves keys and values fastest where the model is."""

    def step(self, batch: Batch, tokens: list[int], prefill: Prefill | None) -> Logits:
        """Feeds each row of the batch its newest token, if any are given, and reads a group's chunk, if there is one.

        Writes keys and values of both, and moves the ends of their windows.
        """
        ...

    def trial(self) -> AbstractContextManager[None]:
        """Returns what the first steps are run in, in case one of them ends the process."""
        ...

    def release(self) -> bool:
        """Frees what only makes steps faster, after an allocation has failed; returns whether that was any memory.

        It comes back by itself, later.
        """
        ...

    def first_steps(self, most_rows: int) -> list[int]:
        """Returns numbers of rows, up to `most_rows`, whose first step takes longer; a warm-up comes by them."""
        ...
