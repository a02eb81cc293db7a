"""Mistakes to plant into the engine: a comparison that they do not disturb shows nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.memory.batch import Batch
from worker.memory.copies import RowCopy
from worker.memory.group import ChunkInput, PrefillGroup
from worker.memory.slab import Slab


@dataclass(frozen=True)
class Mistake:
    """What to put in the place of a method, with `monkeypatch.setattr(owner, attribute, replacement)`."""

    name: str
    owner: type
    attribute: str
    replacement: Callable[..., Any] | property


def _ones(batch: Batch) -> Tensor:
    return torch.ones(len(batch.lengths), batch.width + 1, dtype=torch.long)


def _one_further(batch: Batch) -> Tensor:
    return torch.tensor(batch.lengths)[:, None] + 1


def _narrow_too_far(batch: Batch, order: list[int]) -> None:
    _filter(batch, order)
    window = batch.slab.window
    window.start = min(window.start + 1, window.end)


def _copy_nothing(*_: object) -> None:
    """Leaves in a reused row what its last owner left there."""


def _copy_one_column_off(slab: Slab, source: Slab, rows: list[RowCopy]) -> None:
    _copy_rows(slab, source, rows)
    for buffer in slab.token_buffers:
        for each in rows:
            buffer[each.row] = buffer[each.row].roll(1, dims=1)


def _unmasked_chunk(group: PrefillGroup, begin: int, end: int) -> ChunkInput:
    given = _chunk(group, begin, end)
    return ChunkInput(given.input_ids, torch.ones_like(given.attention_mask), given.position_ids)


def _column_numbers_as_positions(group: PrefillGroup, begin: int, end: int) -> ChunkInput:
    given = _chunk(group, begin, end)
    return ChunkInput(given.input_ids, given.attention_mask, torch.arange(begin, end).expand_as(given.position_ids))


def _take_wrong_rows(slab: Slab, order: list[int]) -> None:
    slab.window.rows = len(order)


def _no_states(_: Slab) -> list[Tensor]:
    return []


_filter, _copy_rows, _chunk = Batch.filter, Slab.copy_rows, PrefillGroup.chunk

NO_MASK_IN_PREFILL = Mistake("no padding mask in prefill", PrefillGroup, "chunk", _unmasked_chunk)
POSITIONS_OFF = Mistake("positions off by one", Batch, "position_ids", _one_further)
STALE_STATES = Mistake("stale recurrent states in a reused row", Slab, "state_buffers", property(_no_states))
MISTAKES = (
    NO_MASK_IN_PREFILL,
    POSITIONS_OFF,
    Mistake("no padding mask", Batch, "attention_mask", _ones),
    Mistake("window off by one", Batch, "filter", _narrow_too_far),
    Mistake("stale keys and values in a reused row", Slab, "copy_rows", _copy_nothing),
    Mistake("row one column off", Slab, "copy_rows", _copy_one_column_off),
    Mistake("leaving row not replaced", Slab, "take_rows", _take_wrong_rows),
    Mistake("prefill positions count padding", PrefillGroup, "chunk", _column_numbers_as_positions),
)
"""Those that any attention shows."""
