"""A flat list of tokens from rows of slabs: what one pass of the C code reads. Pure bookkeeping."""

from dataclasses import dataclass, field

from ...memory.batch import Batch
from ..runner import Prefill

Place = tuple[int, int, int, int]
"""Slab, row, first column of the row, column of the token: `place` in model.h."""


@dataclass
class TokenList:
    """Tokens, where they are, and which of them are to be answered with logits."""

    ids: list[int] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        """Positions in their sequences, from 0."""
        return [column - first for _, _, first, column in self.places]

    def add_batch(self, batch: Batch, tokens: list[int], slab: int) -> None:
        """Adds each row's newest token, for the column at the window's end."""
        end = batch.slab.window.end
        self.asked += range(len(self.ids), len(self.ids) + len(tokens))
        self.ids += tokens
        self.places += [(slab, row, end - length, end) for row, length in enumerate(batch.lengths)]

    def add_chunk(self, prefill: Prefill, slab: int) -> None:
        """Adds the tokens of a chunk, row by row, without padding."""
        group, chunk = prefill.group, prefill.chunk
        for row, length in enumerate(group.lengths):
            padding = group.width - length
            first = max(chunk.begin, padding)
            if first >= chunk.end:
                continue
            self.ids += group.input_ids[row, first : chunk.end].tolist()
            self.places += [(slab, row, padding, column) for column in range(first, chunk.end)]
            if prefill.all_positions:
                self.asked += range(len(self.ids) - (chunk.end - first), len(self.ids))
            elif prefill.completes:
                self.asked.append(len(self.ids) - 1)
