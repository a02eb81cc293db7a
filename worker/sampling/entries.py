"""Single entries of scores [rows, vocabulary], of any number in each row: most processors touch only a few.

All functions change the scores in place, which therefore have to be contiguous.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import Row

MASKED = float("-inf")
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Entries:
    """Some entries of the scores, row by row."""

    flat: Tensor
    """[entries] their places in the flattened scores."""
    row_lengths: Tensor
    """[using rows] how many of them each row has."""

    def spread(self, values: Tensor | Rows[float]) -> Tensor:
        """Returns [entries]: for each entry the value of its row, of float32 values [using rows]."""
        column = torch.as_tensor(values, device=self.flat.device)
        return column.repeat_interleave(self.row_lengths, output_size=len(self.flat))


def entries(scores: Tensor, rows: Rows[Row], tokens: Rows[Tensor]) -> Entries:
    """Returns the entries at `tokens[i]` of `rows[i]`, on the scores' device, wherever the tokens are."""
    lengths = [len(ids) for ids in tokens]
    offsets = [row.index * scores.shape[-1] for row in rows]
    host = torch.tensor([lengths, offsets])
    row_lengths, row_offsets = host.to(scores.device)
    together = torch.cat(list(tokens)).to(scores.device)
    return Entries(together + row_offsets.repeat_interleave(row_lengths, output_size=len(together)), row_lengths)


def ban(scores: Tensor, rows: Rows[Row], tokens: Rows[Tensor]) -> None:
    """Makes `tokens[i]` impossible in `rows[i]`."""
    if any(len(ids) for ids in tokens):
        scores.view(-1).index_fill_(0, entries(scores, rows, tokens).flat, MASKED)


def mask_whole(scores: Tensor, rows: Rows[Row]) -> None:
    """Makes every token of the rows impossible."""
    scores.index_fill_(0, torch.tensor([row.index for row in rows], device=scores.device), MASKED)


def column(values: Rows[float], like: Tensor) -> Tensor:
    """Returns [rows, 1]: one value for each row, of the type and on the device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
