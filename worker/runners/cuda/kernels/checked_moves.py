"""Moves by kernels that were seen to move as plain torch does on this device; by plain torch where they do not."""

import logging
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from ....memory.copies import TORCH_MOVES, Moves, Piece, RowCopy
from ....memory.device_errors import is_lost_device, is_out_of_memory
from .kernel_check import WrongKernelError

logger = logging.getLogger(__name__)

_ROWS, _COLUMNS, _FEWER, _MORE = 3, 150, 120, 200
"""Of the buffers that are tried: several blocks of a kernel in each row."""
Kind = tuple[int, int, torch.dtype, torch.device]


class CheckedMoves:
    """Implements Moves. Each kind of buffer is tried before its first move; one that is wrong ends the kernels' use."""

    def __init__(self, fast: Moves) -> None:
        self._fast: Moves | None = fast
        self._right: set[Kind] = set()

    def move_window(self, buffers: Rows[tuple[Tensor, Tensor]], rows: int, source: Piece, end: int) -> None:
        """See Moves."""
        self._for(new for _, new in buffers).move_window(buffers, rows, source, end)

    def take_rows(self, buffers: Rows[Tensor], moves: Rows[tuple[int, int]], piece: Piece) -> None:
        """See Moves."""
        self._for(buffers).take_rows(buffers, moves, piece)

    def copy_rows(
        self, buffers: Rows[tuple[Tensor, Tensor]], rows: Rows[RowCopy], target: Piece, source_end: int, *, zeroes: bool
    ) -> None:
        """See Moves."""
        self._for(into for into, _ in buffers).copy_rows(buffers, rows, target, source_end, zeroes=zeroes)

    def _for(self, buffers: Iterable[Tensor]) -> Moves:
        """Returns what moves such buffers."""
        for buffer in buffers:
            kind = buffer.shape[1], buffer.shape[3], buffer.dtype, buffer.device
            if self._fast is None:
                break
            if kind not in self._right:
                self._try(self._fast, kind)
        return self._fast or TORCH_MOVES

    def _try(self, fast: Moves, kind: Kind) -> None:
        try:
            check_moves(fast, kind)
        except Exception as error:
            if is_out_of_memory(error) or is_lost_device(error):
                raise
            # Whatever a kernel cannot do here, plain torch can.
            logger.warning("keys and values are moved row by row, layer by layer: %s", error)
            self._fast = None
        else:
            self._right.add(kind)


def check_moves(moves: Moves, kind: Kind) -> None:
    """Compares all moves with plain torch's, of random numbers in buffers of a kind.

    Raises WrongKernelError if a number differs.
    """
    for name, run in _TRIALS.items():
        ours, theirs = (_moved(each, kind, run) for each in (moves, TORCH_MOVES))
        if not torch.equal(ours, theirs):
            raise WrongKernelError(f"{name} is wrong on this device")


def _moved(moves: Moves, kind: Kind, run: Callable[[Moves, list[Tensor]], None]) -> Tensor:
    """Returns two memories behind one another, after a trial's moves in both."""
    heads, dim, dtype, device = kind
    generator = torch.Generator(device).manual_seed(0)
    sizes = (2, _ROWS * heads * _MORE * dim)
    memory = torch.randint(-100, 100, sizes, generator=generator, device=device).to(dtype)
    run(moves, [part.view(_ROWS, heads, _MORE, dim) for part in memory])
    return memory


def _view(buffer: Tensor, columns: int) -> Tensor:
    rows, heads, _, dim = buffer.shape
    return buffer.view(-1)[: rows * heads * columns * dim].view(rows, heads, columns, dim)


def _slide(to: int) -> Callable[[Moves, list[Tensor]], None]:
    return lambda moves, given: moves.move_window([(each, each) for each in given], _ROWS, Piece(20, 110), to)


def _review(before: int, after: int) -> Callable[[Moves, list[Tensor]], None]:
    def run(moves: Moves, given: list[Tensor]) -> None:
        views = [(_view(each, before), _view(each, after)) for each in given]
        moves.move_window(views, _ROWS, Piece(5, 110), 110)

    return run


def _take(moves: Moves, given: list[Tensor]) -> None:
    moves.take_rows(given, [(-1, 0), (0, 1), (1, 2), (2, -1)], Piece(7, 130))


def _join(moves: Moves, given: list[Tensor]) -> None:
    into, source = given
    rows = [RowCopy(2, 0, 100), RowCopy(0, 1, 1), RowCopy(1, 1, 0)]
    moves.copy_rows([(into, _view(source, _COLUMNS))], rows, Piece(30, 100), 140, zeroes=True)


_TRIALS: dict[str, Callable[[Moves, list[Tensor]], None]] = {
    "a slide to the left": _slide(115),
    "a slide to the right": _slide(_MORE),
    "a wider view": _review(_FEWER, _MORE),
    "a narrower view": _review(_COLUMNS, _FEWER),
    "an exchange of rows": _take,
    "a copy of rows": _join,
}
