"""Runs decode steps as CUDA graphs: one for each bucket of rows, captured at its first use and checked there.

A graph knows neither the view of the pool nor the window nor which rows are live: all of that is in its static input.
So a slide, a new view, a join or a leave changes nothing but what is copied into that, and nothing is captured twice.

A captured step has a fixed number of rows, its bucket. Windows need no buckets: where a row's tokens begin and end is
read on the device, and the number of parts that they are divided into depends on the rows alone.

Nothing fast is trusted before it was seen to agree: logits, and the keys and values that a step writes, are compared
with the model's own, row by row.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....memory.batch import Batch
from ....memory.buckets import row_bucket
from ....memory.copies import on_device
from ....memory.device_errors import is_out_of_memory
from ....memory.storage import Storage
from ..kernels.kernel_check import difference, tolerance
from ..llama.forward import Forward, StaticInput
from .capture import Capture, Work

logger = logging.getLogger(__name__)

MakeForward = Callable[[Storage], Forward]
"""Returns the forward pass over a storage's pools; raises if the model has none that can be captured."""


_PATIENCE, _MOST_PATIENCE = 256, 1 << 16
"""Steps after which a capture is tried again that found no memory: at first, and at most."""
_WRONG = 2
"""Buckets that must be wrong before it is the forward pass that is."""


@dataclass(frozen=True)
class _Captured:
    given: StaticInput
    replay: Work


class GraphStep:
    """Implements `runner.DecodeStep`.

    A bucket whose step is found wrong is declined for good, and all are if that is the first thing that any shows, or
    the model cannot be captured. One that finds no memory is declined for a while.
    """

    def __init__(self, model: Any, make_forward: MakeForward, capture: Capture) -> None:  # noqa: ANN401 - no static type
        self.model = model
        self.is_trusted = True
        """Whether batches are run. False if buckets are wrong and none is right, or if the model cannot be captured."""
        self._make_forward = make_forward
        self._capture = capture
        self._storage: Storage | None = None
        self._forward: Forward | None = None
        self._captured: dict[int, _Captured] = {}
        self._wrong: set[int] = set()
        self._steps = 0
        self._patience = _PATIENCE
        self._declined_until: dict[int, int] = defaultdict(int)
        """By bucket: the step from which on a capture is tried again."""
        self._released_until = 0

    @property
    def buckets(self) -> list[int]:
        """Returns for how many rows there are graphs."""
        return sorted(self._captured)

    def __call__(self, batch: Batch, tokens: list[int]) -> Tensor | None:
        """Feeds each row its newest token. The window must have a free column at its end.

        Returns logits, [rows, vocabulary], which are overwritten by the next call; None if it cannot run the batch.
        """
        rows = row_bucket(len(tokens))
        self._steps += 1
        if not self.is_trusted or rows in self._wrong or self._steps < self._next_try(rows):
            return None
        captured = self._captured.get(rows)
        if captured is None or batch.slab.storage is not self._storage:
            return self._begin(rows, batch, tokens)
        captured.given.fill(batch, tokens)
        return captured.replay()[: len(tokens)]

    def _begin(self, rows: int, batch: Batch, tokens: list[int]) -> Tensor | None:
        """Captures a bucket, and compares its first step with the model's own, which counts. None if that fails."""
        try:
            captured, ours = self._first_step(rows, batch, tokens)
        except Exception as error:
            if is_out_of_memory(error):
                self._decline(rows)
                return None
            # Whatever a model does that a capture does not allow, its own forward pass can do.
            logger.warning("a decode step could not be captured", exc_info=True)
            self._give_up("decode steps are not captured: %s", error)
            return None
        written = newest_column(batch)
        theirs = eager_logits(self.model, batch, tokens)
        if not theirs.isfinite().all(dim=1).any():
            return theirs  # there is nothing to compare with: the next step tries again
        errors = difference(ours, theirs), difference(written, newest_column(batch))
        if max(errors) > tolerance(theirs.dtype):
            logger.warning(
                "a captured decode step of %s rows differs from the model's by %.3g in its logits and %.3g in its keys "
                "and values, more than %.3g: such steps are not captured",
                len(tokens),
                *errors,
                tolerance(theirs.dtype),
            )
            self._wrong.add(rows)
            if len(self._wrong) >= _WRONG and not self._captured:
                self._give_up("decode steps are not captured: those of %d numbers of rows are wrong", len(self._wrong))
        else:
            self._captured[rows] = captured
            logger.info("decode steps of up to %s rows captured; they differ by %.2g and %.2g", rows, *errors)
        return theirs

    def release(self) -> bool:
        """Frees graphs and copies of matrices, for a while; returns whether there were any."""
        had = bool(self._captured)
        self._captured.clear()
        self._forward = self._storage = None
        if had:
            self._released_until = self._steps + self._patience
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        return had

    def _next_try(self, rows: int) -> int:
        """Returns the step from which on a bucket may be captured."""
        return max(self._released_until, self._declined_until[rows])

    def _decline(self, rows: int) -> None:
        logger.warning("no memory for a graph of %s rows; for %s steps such ones run without", rows, self._patience)
        self._declined_until[rows] = self._steps + self._patience
        self._patience = min(2 * self._patience, _MOST_PATIENCE)

    def _first_step(self, rows: int, batch: Batch, tokens: list[int]) -> tuple[_Captured, Tensor]:
        """Captures a bucket and runs it once. Returns a copy of its logits, too."""
        forward = self._bind(batch.slab.storage)
        given = StaticInput(rows, batch.device)
        given.fill(batch, tokens)
        captured = _Captured(given, self._capture(lambda: forward(given)))
        return captured, captured.replay()[: len(tokens)].clone()

    def _bind(self, storage: Storage) -> Forward:
        """Returns the forward pass over a storage. Graphs over another one are let go."""
        if self._forward is None or storage is not self._storage:
            self._captured.clear()
            self._forward = self._make_forward(storage)
            self._storage = storage
        return self._forward

    def _give_up(self, message: str, *values: object) -> None:
        logger.warning(message, *values)
        self.is_trusted = False
        self._captured.clear()
        self._forward = self._storage = None  # copies of matrices go with it


def newest_column(batch: Batch) -> Tensor:
    """Returns a copy of the keys and values in the column at the window's end, of all layers, [rows, numbers]."""
    end, rows = batch.slab.window.end, len(batch.lengths)
    return torch.cat([buffer[:rows, :, end].flatten(1) for buffer in batch.slab.token_buffers], dim=1)


def eager_logits(model: Any, batch: Batch, tokens: list[int]) -> Tensor:  # noqa: ANN401 - no useful static type
    """Returns what the model's own forward pass makes of a step, [rows, vocabulary]; it writes the column, too."""
    output = model(
        input_ids=on_device(tokens, batch.device)[:, None],
        attention_mask=batch.attention_mask(),
        position_ids=batch.position_ids(),
        past_key_values=batch.slab.cache(len(tokens)),
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits
    return logits[:, -1]
