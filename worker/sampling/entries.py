"""Some of the scores [rows, vocabulary], of any number in each row: entries to be changed, candidates to be sorted.

Most processors touch only a few entries. Functions on those change the scores in place, which therefore have to be
contiguous. Warpers sort only tokens that are worth it: on a processor, sorting whole vocabularies is by far the dearest
of all.
"""

from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from ..memory.copies import on_device, to_device
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
        column = values if isinstance(values, Tensor) else on_device(values, self.flat.device)
        return column.repeat_interleave(self.row_lengths, output_size=len(self.flat))


def entries(scores: Tensor, rows: Rows[Row], tokens: Rows[Tensor]) -> Entries:
    """Returns the entries at `tokens[i]` of `rows[i]`, on the scores' device, wherever the tokens are."""
    lengths = [len(ids) for ids in tokens]
    offsets = [row.index * scores.shape[-1] for row in rows]
    host = torch.tensor([lengths, offsets])
    row_lengths, row_offsets = to_device(host, scores.device)
    together = _together(tokens, scores.device)
    return Entries(together + row_offsets.repeat_interleave(row_lengths, output_size=len(together)), row_lengths)


def _together(tokens: Rows[Tensor], device: torch.device) -> Tensor:
    together = torch.cat(list(tokens))
    return together if together.device == device else to_device(together, device)


def ban(scores: Tensor, rows: Rows[Row], tokens: Rows[Tensor]) -> None:
    """Makes `tokens[i]` impossible in `rows[i]`."""
    if any(len(ids) for ids in tokens):
        scores.view(-1).index_fill_(0, entries(scores, rows, tokens).flat, MASKED)


def mask_whole(scores: Tensor, rows: Rows[Row]) -> None:
    """Makes every token of the rows impossible."""
    scores.index_fill_(0, on_device([row.index for row in rows], scores.device), MASKED)


def column(values: Rows[float], like: Tensor) -> Tensor:
    """Returns [rows, 1]: one value for each row, of the type and on the device of `like`."""
    return on_device(values, like.device, like.dtype)[:, None]


class Candidates:
    """Some tokens of a row, moved together in the order of their ids; or all, of several rows and on accelerators."""

    def __init__(self, possible: Tensor) -> None:
        """Takes which tokens are candidates, as [rows, vocabulary] of booleans.

        All are with several rows, and in a row without any: one that is masked whole, or holds NaN. All are on an
        accelerator, too, which to count them would stall.
        """
        ids = possible[0].nonzero()[:, 0] if len(possible) == 1 and possible.device.type == "cpu" else None
        self._ids = None if ids is None or len(ids) in {0, possible.shape[-1]} else ids

    def take(self, values: Tensor) -> Tensor:
        """Returns [rows, candidates]: the candidates' values of [rows, vocabulary], which are the same if all are."""
        return values if self._ids is None else values[:, self._ids]

    def put(self, values: Tensor, taken: Tensor) -> None:
        """Puts into values [rows, vocabulary] what was taken from them, and changed since."""
        if self._ids is not None:
            values[:, self._ids] = taken

    def keep(self, scores: Tensor, kept: Tensor) -> None:
        """Masks in scores [rows, vocabulary] all but the candidates that `kept` [rows, candidates] says."""
        if self._ids is None:
            scores.masked_fill_(~kept, MASKED)
            return
        ids = self._ids[kept[0]]
        values = scores[:, ids]
        scores.fill_(MASKED)
        scores[:, ids] = values


def row_by_row(warp: Callable[[Tensor, list[Row]], None]) -> Callable[[Tensor, list[Row]], None]:
    """Returns a warper that sorts, so that on a processor each row pays only for tokens that are not masked yet.

    An accelerator works on all rows at once, and sorts whole vocabularies: that is cheap there, and to count the
    candidates would stall it.
    """

    def apply(scores: Tensor, rows: list[Row]) -> None:
        if scores.device.type != "cpu":
            warp(scores, rows)
            return
        for row, alone in zip(rows, scores.split(1), strict=True):
            left = Candidates(alone > MASKED)
            few = left.take(alone)
            warp(few, [row])
            left.put(alone, few)

    return apply
