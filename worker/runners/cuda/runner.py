"""Runs a model with captured decode steps; prompts, and what cannot be captured, go through transformers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor

from ...memory.batch import Batch
from ...memory.buckets import row_buckets
from ...memory.copies import TORCH_MOVES, Moves
from ..model_runner import ModelRunner
from ..runner import Logits, Prefill


class DecodeStep(Protocol):
    """A faster way to run decode steps, with the same logits up to rounding."""

    def __call__(self, batch: Batch, tokens: list[int]) -> Tensor | None:
        """Feeds each row its newest token; writes its keys and values into the free column at the window's end.

        Returns logits, [rows, vocabulary], which the next call may overwrite; None for a batch that it cannot run.
        """
        ...

    def release(self) -> bool:
        """As `Runner.release`."""
        ...


class CudaRunner:
    """Implements Runner."""

    reads_padding = True

    def __init__(
        self,
        eager: ModelRunner,
        decode_step: DecodeStep,
        trial: Callable[[], AbstractContextManager[None]] = nullcontext,
        moves: Moves = TORCH_MOVES,
    ) -> None:
        self.eager = eager
        self.moves = moves
        self.decode_step = decode_step
        self._trial = trial

    def step(self, batch: Batch, tokens: list[int], prefill: Prefill | None) -> Logits:
        """Decodes, then reads the chunk; as `Runner.step`."""
        decoded = self._decode(batch, tokens) if tokens else None
        return Logits(decoded, self.eager.step(batch, [], prefill).read)

    def trial(self) -> AbstractContextManager[None]:
        """Leaves a mark meanwhile."""
        return self._trial()

    def release(self) -> bool:
        """Frees graphs, and copies of matrices."""
        return self.decode_step.release()

    def first_steps(self, most_rows: int) -> list[int]:
        """Returns all numbers of rows that graphs are captured for."""
        return sorted({min(rows, most_rows) for rows in row_buckets(most_rows)})

    def _decode(self, batch: Batch, tokens: list[int]) -> Tensor:
        batch.make_room()
        logits = self.decode_step(batch, tokens)
        if logits is None:
            return self.eager.decode(batch, tokens)
        batch.advance()
        return logits
