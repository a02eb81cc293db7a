"""What a captured step reads: tensors that stay where they are, filled anew for each step with one copy."""

import torch
from torch import Tensor

from ....memory.batch import Batch
from ..kernels.ops import ABSENT, Bounds


class StaticInput:
    """Tokens and bounds of a step of `rows` rows, some of which may be absent."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        self._buffer = torch.zeros(2 * rows + 2, dtype=torch.int64, device=device)
        self.tokens = self._buffer[:rows]
        """[rows], int64: each row's newest token; 0 where there is no row."""
        self.bounds = Bounds(self._buffer[rows : 2 * rows], self._buffer[-2], self._buffer[-1])

    def positions(self) -> Tensor:
        """Returns [rows]: the positions of the tokens, counted without padding; 0 where there is no row."""
        return self.bounds.lengths.clamp(min=0)

    def fill(self, batch: Batch, tokens: list[int]) -> None:
        """Takes over a batch and its newest tokens. It must have a free column at the window's end."""
        absent = self.rows - len(tokens)
        slab = batch.slab
        lengths = [*batch.lengths, *[ABSENT] * absent]
        # From ordinary memory, so that the copy has left it when the call returns.
        self._buffer.copy_(torch.tensor([*tokens, *[0] * absent, *lengths, slab.window.end, slab.columns]))
