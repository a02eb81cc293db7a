"""Moves of keys and values as one Triton kernel each, for all layers. Importing this needs Triton."""

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence as Rows

import torch
import triton.language as tl
from torch import Tensor

from ....memory.copies import Piece, RowCopy, on_device
from . import move_kernels
from .variants import launch

_BLOCK = 2048
"""Words that a program moves at a time."""
_WORDS = {8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}
_WARPS = 8
_MOST_TABLES = 64
"""Each prefill group may lie elsewhere in its memory."""


class TritonMoves:
    """Implements Moves."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, ...], Tensor] = {}

    def move_window(self, buffers: Rows[tuple[Tensor, Tensor]], rows: int, source: Piece, end: int) -> None:
        """See Moves."""
        if not rows or not source.width:
            return
        for before, after in _alike(buffers):
            heads, words, word = _sizes(before[0])
            columns, new_columns = before[0].shape[2], after[0].shape[2]
            pieces = rows * heads
            # With other columns a piece may move over its neighbour, which has to have moved before.
            steps = 1 if columns == new_columns else pieces
            launch(
                move_kernels.move_window,
                (len(before), pieces // steps),
                self._table(before),
                steps,
                columns,
                new_columns,
                source.start,
                end - source.width,
                source.width,
                WORDS=words,
                WORD=word,
                BLOCK=_BLOCK,
                num_warps=_WARPS,
                num_stages=1,  # what is fetched ahead would not be what has moved there
            )

    def take_rows(self, buffers: Rows[Tensor], moves: Rows[tuple[int, int]], piece: Piece) -> None:
        """See Moves."""
        if not moves or not piece.width:
            return
        for (same,) in _alike([(buffer,) for buffer in buffers]):
            heads, words, word = _sizes(same[0])
            launch(
                move_kernels.take_rows,
                (len(same), heads, -(-piece.width * words // _BLOCK)),
                self._table(same),
                on_device(moves, same[0].device, torch.int64),
                len(moves),
                same[0].shape[2],
                piece.start,
                piece.width,
                HEADS=heads,
                WORDS=words,
                WORD=word,
                BLOCK=_BLOCK,
                num_warps=_WARPS,
                num_stages=1,  # as above
            )

    def copy_rows(
        self,
        buffers: Rows[tuple[Tensor, Tensor]],
        rows: Rows[RowCopy],
        target: Piece,
        source_end: int,
        *,
        zeroes: bool,  # noqa: ARG002 - they cost nothing beside a copy
    ) -> None:
        """See Moves. There are always zeros."""
        if not rows or not target.width:
            return
        for into, given in _alike(buffers):
            heads, words, word = _sizes(into[0])
            launch(
                move_kernels.copy_rows,
                (len(into), len(rows) * heads, -(-target.width * words // _BLOCK)),
                self._table(into),
                self._table(given),
                on_device([list(row) for row in rows], into[0].device, torch.int64),
                into[0].shape[2],
                given[0].shape[2],
                target.start,
                target.width,
                source_end,
                HEADS=heads,
                WORDS=words,
                WORD=word,
                BLOCK=_BLOCK,
                num_warps=_WARPS,
            )

    def _table(self, buffers: Rows[Tensor]) -> Tensor:
        """Returns the addresses of buffers, on their device."""
        addresses = tuple(buffer.data_ptr() for buffer in buffers)
        if addresses not in self._tables:
            if len(self._tables) >= _MOST_TABLES:
                self._tables.clear()
            self._tables[addresses] = on_device(addresses, buffers[0].device, torch.int64)
        return self._tables[addresses]


def _alike(groups: Rows[tuple[Tensor, ...]]) -> Iterator[list[list[Tensor]]]:
    """Yields tuples of buffers whose pieces are alike: a list of their first members, one of their second ones ..."""
    found: dict[tuple[object, ...], list[tuple[Tensor, ...]]] = defaultdict(list)
    for group in groups:
        found[_sizes(group[0])].append(group)
    for same in found.values():
        yield [list(members) for members in zip(*same, strict=True)]


def _sizes(buffer: Tensor) -> tuple[int, int, object]:
    """Returns the heads of a buffer, and the words of a vector with their type."""
    size = buffer.shape[3] * buffer.element_size()
    word = next(each for each in _WORDS if size % each == 0)
    return buffer.shape[1], size // word, _WORDS[word]
