"""A prefill group: prompts that are read together, left-padded, chunk of columns by chunk of columns.

Rows are sorted by length, longest first. A row takes part from the chunk on that holds its first token, so that the
padding of short prompts beside long ones is hardly computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .copies import on_device
from .slab import Slab
from .storage import Storage


@dataclass(frozen=True)
class ChunkInput:
    """What the model is given for one chunk of `rows` rows and `columns` columns."""

    input_ids: Tensor
    """[rows, columns], padding in front."""
    attention_mask: Tensor
    """[rows, columns of the window and the chunk], 0 on padding."""
    position_ids: Tensor
    """[rows, columns], counted without padding."""


class PrefillGroup:
    """Prompts that are being read into a slab of their own, longest first."""

    def __init__(
        self,
        storage: Storage,
        prompts: Sequence[list[int]],
        *,
        pad_token_id: int,
        device: torch.device,
        reads_padding: bool = True,
    ) -> None:
        """Takes the storage over, and clears it for a runner that reads padding."""
        width = len(prompts[0])
        padded = [[pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts]
        self.slab = Slab(storage, len(prompts), width, reads_padding=reads_padding)
        if reads_padding:
            # Chunks are masked from the window's start on, before which shorter rows have written nothing.
            self.slab.clear()
        self.slab.window.rows = len(prompts)
        self.input_ids = on_device(padded, device)
        self.lengths = [len(prompt) for prompt in prompts]
        self.device = device

    @property
    def width(self) -> int:
        """Columns of the group."""
        return self.input_ids.shape[1]

    def filter(self, rows: Sequence[int]) -> None:
        """Keeps the given rows."""
        self.slab.take_rows(rows)
        self.input_ids = self.input_ids[on_device(list(rows), self.device)]
        self.lengths = [self.lengths[row] for row in rows]

    def skip_to(self, begin: int) -> None:
        """Moves the end of the window to `begin`, over columns in which no row has a token."""
        window = self.slab.window
        if window.width == 0:
            window.start = begin
        window.end = begin

    def advance(self, end: int) -> None:
        """Moves the end of the window to `end`, behind a chunk that was read."""
        self.slab.window.end = end

    def chunk(self, begin: int, end: int) -> ChunkInput:
        """Returns the input of columns [begin, end), for the rows that have a token before `end`."""
        rows = self._rows_before(end)
        padding = self.width - on_device(self.lengths[:rows], self.device)[:, None]
        columns = torch.arange(self.slab.window.start, end, device=self.device)
        return ChunkInput(
            input_ids=self.input_ids[:rows, begin:end],
            attention_mask=(columns >= padding).to(torch.long),
            position_ids=(columns[begin - self.slab.window.start :] - padding).clamp(min=0),
        )

    def targets(self, begin: int, end: int) -> Tensor:
        """Returns the tokens that columns [begin, end) predict, for the rows that have a token before `end`.

        Those are one column on, [rows, end - begin]; the group's last column predicts none: one fewer there.
        """
        return self.input_ids[: self._rows_before(end), begin + 1 : end + 1]

    def _rows_before(self, end: int) -> int:
        return sum(self.width - length < end for length in self.lengths)
