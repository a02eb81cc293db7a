"""Copies: from the host to a device without waiting, and of keys and values within a device's memory.

CUDA copies from ordinary host memory when all that was launched before is done, and the host waits until then: one
such copy a step puts Python and the device one behind the other. A copy from pinned memory is launched like a kernel.
torch keeps pinned memory that was let go, and gives it out again only when the copies from it are done.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .device_errors import is_lost_device, is_out_of_memory

logger = logging.getLogger(__name__)


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the host on a device."""
    if device.type != "cuda" or not host.numel():
        return host.to(device)
    return _pinned(host).to(device, non_blocking=True)


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:  # noqa: ANN401 - as torch.tensor takes it
    """Returns numbers, or nested lists of them, as a tensor on a device."""
    return to_device(torch.tensor(values, dtype=dtype), device)


def fill(target: Tensor, host: Tensor) -> None:
    """Copies a tensor of the host into one that stays where it is."""
    if target.device.type == "cuda":
        target.copy_(_pinned(host), non_blocking=True)
    else:
        target.copy_(host)


def _pinned(host: Tensor) -> Tensor:
    """Returns a copy in pinned memory; what it was given where there is none to be had, which CUDA copies, too."""
    try:
        return host.pin_memory()
    except RuntimeError as error:
        if is_lost_device(error) and not is_out_of_memory(error):
            raise
        _warn_once(str(error))
        return host


@cache
def _warn_once(reason: str) -> None:
    logger.warning("no memory can be pinned, so that the GPU waits for what it is told: %s", reason)


class Piece(NamedTuple):
    """Columns [start, start + width)."""

    start: int
    width: int


class RowCopy(NamedTuple):
    """A row that takes the newest `length` columns of another one."""

    row: int
    source: int
    length: int


class Moves(Protocol):
    """Moves keys and values of all layers, in buffers of [rows, heads, columns, dimension]."""

    def move_window(self, buffers: Sequence[tuple[Tensor, Tensor]], rows: int, source: Piece, end: int) -> None:
        """Copies columns of the first rows from one view of a memory to another, so that they end at `end`."""
        ...

    def take_rows(self, buffers: Sequence[Tensor], moves: Sequence[tuple[int, int]], piece: Piece) -> None:
        """Copies some columns from rows to rows, in order, as `row_moves` yields them."""
        ...

    def copy_rows(
        self,
        buffers: Sequence[tuple[Tensor, Tensor]],
        rows: Sequence[RowCopy],
        target: Piece,
        source_end: int,
        *,
        zeroes: bool,
    ) -> None:
        """Fills columns of rows of the first buffers with those before `source_end` of rows of the second ones.

        The newest ones are at the right edge; before them there are zeros, if asked for.
        """
        ...


class TorchMoves:
    """Implements Moves on any device, with some launches for each row and layer."""

    def move_window(self, buffers: Sequence[tuple[Tensor, Tensor]], rows: int, source: Piece, end: int) -> None:
        """See Moves.

        Rows get wider and move to the back: the last one first; or narrower, and to the front: the first one first. So
        no row is overwritten before it was copied.
        """
        start, width = source
        for old, new in buffers:
            in_order = range(rows)
            for row in reversed(in_order) if new.shape[2] > old.shape[2] else in_order:
                # A row's old and new place may overlap.
                new[row, :, end - width : end] = old[row, :, start : start + width].clone()

    def take_rows(self, buffers: Sequence[Tensor], moves: Sequence[tuple[int, int]], piece: Piece) -> None:
        """See Moves."""
        for buffer in buffers:
            take_rows(buffer[:, :, piece.start : piece.start + piece.width], moves)

    def copy_rows(
        self,
        buffers: Sequence[tuple[Tensor, Tensor]],
        rows: Sequence[RowCopy],
        target: Piece,
        source_end: int,
        *,
        zeroes: bool,
    ) -> None:
        """See Moves."""
        start, end = target.start, target.start + target.width
        for into, given in buffers:
            for row, source, length in rows:
                if zeroes:
                    into[row, :, start : end - length].zero_()
                into[row, :, end - length : end] = given[source, :, source_end - length : source_end]


TORCH_MOVES: Moves = TorchMoves()


def take_rows(rows: Tensor, moves: Sequence[tuple[int, int]]) -> None:
    """Copies rows to rows, in order, as `row_moves` yields them."""
    saved = rows[:0]
    for target, source in moves:
        if target == SAVED:
            saved = rows[source].clone()
        else:
            rows[target] = saved if source == SAVED else rows[source]


SAVED = -1
"""The place aside that holds one row."""


def row_moves(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (target, source) copies after which row i is what row order[i] was. Any order, repeats allowed.

    A row is overwritten when nobody needs it any more. Where rows change places in a circle, one is first copied to
    SAVED, one circle at a time. Rows that stay are not copied.
    """
    pending = {target: source for target, source in enumerate(order) if target != source}
    while pending:
        needed = set(pending.values())
        free = [target for target in pending if target not in needed]
        if not free:
            first = next(iter(pending))
            yield SAVED, first
            pending = {target: SAVED if source == first else source for target, source in pending.items()}
        for target in free:
            yield target, pending.pop(target)
