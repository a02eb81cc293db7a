"""The running batch: rows of different lengths, left-padded, aligned at the right edge of a slab's window.

The verbs are those of the field: `concatenate` takes rows in, `filter` lets rows go, puts them in another order or
doubles them. The newest token of every row that the slab holds is in the column before the window's end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .copies import RowCopy, on_device
from .group import PrefillGroup
from .slab import Slab
from .storage import Storage


class Batch:
    """Rows and their lengths over a slab, at first viewed as 0 rows."""

    def __init__(self, storage: Storage, device: torch.device, *, reads_padding: bool = True) -> None:
        """Begins empty. `reads_padding` tells whether the runner does."""
        self.slab = Slab(storage, 0, 0, reads_padding=reads_padding)
        self.device = device
        self.lengths: list[int] = []
        """Tokens of each row that are in the slab."""
        self.slides = 0
        """How often the live columns were copied, because the right edge or a longer joiner needed room."""
        self.reviews = 0
        """How often the live columns were copied because the memory was viewed as other rows and columns."""

    @property
    def width(self) -> int:
        """Columns of the window."""
        return self.slab.window.width

    def view(self, rows: int, columns: int) -> None:
        """Views the memory as so many rows and columns; all live rows stay what they are.

        Raises ValueError if the live rows or their columns are more, or the storage holds fewer.
        """
        # At the left edge: as there is a copy anyway, it is to be long until the next.
        self.slab.view(rows, columns, end=self.width)
        self.reviews += bool(self.lengths)

    def filter(self, order: Sequence[int]) -> None:
        """Makes row i what row order[i] was, in any order, repeats allowed; the window narrows to the longest."""
        if len(order) > self.slab.rows:
            raise ValueError(f"{len(order)} rows, but the view has {self.slab.rows}")
        self.slab.take_rows(order)
        self.lengths = [self.lengths[row] for row in order]
        self.slab.window.start = self.slab.window.end - max(self.lengths, default=0)

    def concatenate(self, group: PrefillGroup, copies: Sequence[int]) -> None:
        """Takes in all rows of a prefilled group, row i copies[i] times, aligned at the right edge.

        Raises ValueError if the view has too few rows or columns.
        """
        joining = [row for row, count in enumerate(copies) for _ in range(count)]
        if not joining:
            return
        self._make_place(len(joining), max(group.lengths[row] for row in joining))
        lengths = [group.lengths[row] for row in joining]
        places = range(len(self.lengths), len(self.lengths) + len(joining))
        self.slab.copy_rows(group.slab, [RowCopy(*each) for each in zip(places, joining, lengths, strict=True)])
        self.lengths += lengths
        self.slab.window.rows = len(self.lengths)

    def _make_place(self, rows: int, longest: int) -> None:
        """Opens the window for joining rows."""
        slab, window = self.slab, self.slab.window
        if len(self.lengths) + rows > slab.rows or longest > slab.columns:
            raise ValueError(
                f"{rows} rows of {longest} columns do not fit beside {len(self.lengths)} rows "
                f"into {slab.rows} of {slab.columns}"
            )
        if not self.lengths:
            window.start = window.end = longest
        elif longest > window.end:
            slab.move_window(longest)
            self.slides += 1
        slab.widen(min(window.start, window.end - longest))

    def clear(self) -> None:
        """Lets all rows go."""
        self.slab.close()
        self.lengths = []

    def clear_row(self, row: int) -> None:
        """Zeroes what a row holds, for one with values that are not finite."""
        self.slab.clear_row(row)

    def make_room(self) -> None:
        """Makes sure that the column at the right edge is free, sliding the window to the left if it is not.

        Raises ValueError if every column is in use.
        """
        if self.slab.window.end < self.slab.columns:
            return
        if self.width == self.slab.columns:
            raise ValueError(f"all {self.width} columns are in use")
        self.slab.move_window(self.width)
        self.slides += 1

    def advance(self) -> None:
        """Counts in the column that a decode step has just written."""
        self.slab.window.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def attention_mask(self) -> Tensor:
        """Returns [rows, width + 1]: 1 where a row has a token, the one to come included, 0 on its padding."""
        columns = torch.arange(self.width + 1, device=self.device)
        padding = self.width - on_device(self.lengths, self.device)
        return (columns >= padding[:, None]).to(torch.long)

    def position_ids(self) -> Tensor:
        """Returns [rows, 1]: the position of each row's token to come, counted without padding."""
        return on_device(self.lengths, self.device)[:, None]
