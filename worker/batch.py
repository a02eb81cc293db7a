"""The running batch: rows of different lengths, left-padded, aligned at the right edge of a slab's window.

The verbs are those of the field: `concatenate` takes rows in,
`filter` lets rows go. The newest token of every row that the slab holds is in the column before the window's end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .group import PrefillGroup
from .slab import LayerShape, Slab, Storage


class Batch:
    """Rows and their lengths over a slab."""

    def __init__(self, shapes: Sequence[LayerShape], rows: int, columns: int, device: torch.device) -> None:
        self.slab = Slab(Storage(shapes, rows * columns), rows, columns)
        self.device = device
        self.lengths: list[int] = []
        """Tokens of each row that are in the slab."""
        self.slides = 0
        """How often the live columns were copied, because the right edge or a longer joiner needed room."""

    @property
    def width(self) -> int:
        """Columns of the window."""
        return self.slab.window.end - self.slab.window.start

    def filter(self, rows: Sequence[int]) -> None:
        """Keeps the given rows, in the given order; the window narrows to the longest of them."""
        self.slab.take_rows(rows)
        self.lengths = [self.lengths[row] for row in rows]
        self._narrow()

    def concatenate(self, group: PrefillGroup) -> None:
        """Takes in all rows of a prefilled group, aligned at the right edge."""
        longest = max(group.lengths)
        window = self.slab.window
        if not self.lengths:
            window.start = window.end = longest
        elif longest > window.end:
            self.slab.move_window(longest)
            self.slides += 1
        for row, length in enumerate(group.lengths):
            self.slab.copy_row(len(self.lengths), group.slab, row, length)
            self.lengths.append(length)
        window.rows = len(self.lengths)
        self._narrow()

    def clear(self) -> None:
        """Lets all rows go, and zeroes their memory."""
        self.slab.clear()
        self.lengths = []

    def make_room(self) -> None:
        """Makes sure that the column at the right edge is free, sliding the window to the left if it is not."""
        if self.slab.window.end == self.slab.columns:
            self.slab.move_window(self.width)
            self.slides += 1

    def advance(self) -> None:
        """Counts in the column that a decode step has just written."""
        self.slab.window.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def attention_mask(self) -> Tensor:
        """Returns [rows, width + 1]: 1 where a row has a token, the one to come included, 0 on its padding."""
        columns = torch.arange(self.width + 1, device=self.device)
        padding = self.width - torch.tensor(self.lengths, device=self.device)
        return (columns >= padding[:, None]).to(torch.long)

    def position_ids(self) -> Tensor:
        """Returns [rows, 1]: the position of each row's token to come, counted without padding."""
        return torch.tensor(self.lengths, device=self.device)[:, None]

    def _narrow(self) -> None:
        self.slab.window.start = self.slab.window.end - max(self.lengths, default=0)
