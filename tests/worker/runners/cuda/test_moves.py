"""Moves of keys and values are one launch for all layers, and those of plain torch where kernels move wrongly."""

import sys
from collections.abc import Sequence as Rows
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worker.pretend_cuda import pretend_cuda
from worker.memory.batch import Batch
from worker.memory.copies import TORCH_MOVES, Moves, Piece, TorchMoves
from worker.memory.group import PrefillGroup
from worker.memory.layout import Layout, TokenShape
from worker.memory.storage import Storage
from worker.runners.cuda.kernels.checked_moves import CheckedMoves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ROWS, LAYERS = 32, 32


class Wrong(TorchMoves):
    """Exchanges nothing."""

    def take_rows(self, buffers: Rows[Tensor], moves: Rows[tuple[int, int]], piece: Piece) -> None:
        """Leaves all rows where they are."""


class Raising(TorchMoves):
    """Fails at its first move."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def move_window(self, buffers: Rows[tuple[Tensor, Tensor]], rows: int, source: Piece, end: int) -> None:
        raise self.error


class Counting(TorchMoves):
    """Counts exchanges."""

    count = 0

    def take_rows(self, buffers: Rows[Tensor], moves: Rows[tuple[int, int]], piece: Piece) -> None:
        self.count += 1
        super().take_rows(buffers, moves, piece)


def moved(moves: Moves) -> list[float]:
    """Returns a buffer of two rows that have changed places."""
    buffer = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, None, :, None].contiguous()
    moves.take_rows([buffer], [(-1, 0), (0, 1), (1, -1)], Piece(0, 2))
    return [float(each) for each in buffer.flatten()]


@pytest.mark.parametrize("fast", [Wrong(), Raising(RuntimeError("it cannot be compiled"))], ids=["wrong", "raising"])
def test_kernels_that_move_wrongly_are_not_used(fast: Moves, caplog: pytest.LogCaptureFixture) -> None:
    moves = CheckedMoves(fast)
    assert moved(moves) == moved(moves) == [3, 4, 1, 2]
    assert caplog.text.count("moved row by row") == 1


def test_kernels_that_move_rightly_are_tried_once() -> None:
    fast = Counting()
    moves = CheckedMoves(fast)
    assert moved(moves) == [3, 4, 1, 2]
    before = fast.count
    assert moved(moves) == [3, 4, 1, 2]
    assert fast.count == before + 1


def test_a_trial_without_memory_proves_nothing() -> None:
    fast = Raising(torch.OutOfMemoryError())
    moves = CheckedMoves(fast)
    with pytest.raises(torch.OutOfMemoryError):
        moved(moves)
    fast.error = RuntimeError("wrong")
    assert moved(moves) == [3, 4, 1, 2]


class Launches:
    """Stands for Triton's kernels, and counts their launches."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: object) -> Any:
        return self._launch

    def _launch(self, *_: object, **__: object) -> None:
        self.count += 1


def batch_of(moves: Moves, device: torch.device) -> tuple[Batch, PrefillGroup]:
    """Returns a batch, and as many rows that are to join it."""
    layouts = [Layout(TokenShape(1, 2, 1, 2, torch.float16, device))] * LAYERS
    batch = Batch(Storage(layouts, ROWS * 16, ROWS, moves), device)
    batch.view(ROWS, 16)
    group = PrefillGroup(Storage(layouts, ROWS * 4, ROWS), [[1] * 4] * ROWS, pad_token_id=0, device=device)
    group.slab.window.end = 4
    return batch, group


def work(batch: Batch, group: PrefillGroup) -> None:
    """Joins, slides and leaves: all moves of 32 rows."""
    batch.concatenate(group, [1] * ROWS)
    batch.slab.move_window(9)
    batch.filter(list(reversed(range(ROWS))))


def test_torch_launches_thousands_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_cuda(monkeypatch) as gpu:
        batch, group = batch_of(TORCH_MOVES, GPU)
        gpu.clear()
        work(batch, group)
        assert gpu.launches.total() > 3 * ROWS * 2 * LAYERS


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux alone")
def test_kernels_are_launched_once_for_all_rows_and_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.runners.cuda.kernels import triton_moves

    launches = Launches()
    kernels = SimpleNamespace(move_window=launches, take_rows=launches, copy_rows=launches)
    monkeypatch.setattr(triton_moves, "move_kernels", kernels)
    batch, group = batch_of(triton_moves.TritonMoves(), CPU)
    work(batch, group)
    # Zeros to the left, of rows that are not there yet, are none.
    assert launches.count == 3
    batch.slab.widen(2)
    assert launches.count == 4
