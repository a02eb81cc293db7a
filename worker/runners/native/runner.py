"""Runs whole models through the C code: the batch's rows and a prompt's chunk in one pass, without padding."""

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ...loading.cpu_level import Arithmetic
from ...memory.batch import Batch
from ...memory.copies import TORCH_MOVES, Moves
from ...memory.slab import Slab
from ..runner import Logits, Prefill
from . import structures
from .anatomy import Anatomy
from .description import Description
from .library import Library
from .token_list import TokenList


class NativeRunner:
    """Decode and prefill of one model."""

    reads_padding = False
    moves: Moves = TORCH_MOVES

    def __init__(self, model: Any, library: Library, arithmetic: Arithmetic = "exact") -> None:  # noqa: ANN401 - transformers models share no useful static type
        """Takes a model without obstacles (`obstacles.py`), its 4-bit layers packed, and what those multiply with."""
        self.library = library
        self.description = Description(model, arithmetic)
        anatomy = Anatomy(model)
        self._embed, self._positions = anatomy.embedding, anatomy.positions
        self._rotary, self._rotation_kinds = anatomy.rotary, anatomy.rotation_kinds
        self._logits = torch.empty(0, self.description.vocab_size)

    def step(self, batch: Batch, tokens: list[int], prefill: Prefill | None) -> Logits:
        """Runs all tokens in one pass, as `Runner.step`.

        Raises MemoryError if the activations find no room: then rows have not grown, but the batch's window may have
        slid, and the group's may have skipped padding.
        """
        if not tokens and prefill is None:
            return Logits()
        listed = TokenList()
        slabs: list[Slab] = []
        if tokens:
            batch.make_room()
            listed.add_batch(batch, tokens, len(slabs))
            slabs.append(batch.slab)
        if prefill:
            prefill.group.skip_to(prefill.chunk.begin)
            listed.add_chunk(prefill, len(slabs))
            slabs.append(prefill.group.slab)
        logits = self._forward(listed, slabs)
        if tokens:
            batch.advance()
        if prefill:
            prefill.group.advance(prefill.chunk.end)
        decoded, read = logits.split((len(tokens), len(logits) - len(tokens)))
        if prefill and prefill.all_positions:
            read = _spread(read, listed, len(tokens), prefill)
        return Logits(decoded if tokens else None, read if prefill else None)

    def trial(self) -> AbstractContextManager[None]:
        """Expects no fault."""
        return nullcontext()

    def release(self) -> bool:
        """Has nothing to free."""
        return False

    def first_steps(self, most_rows: int) -> list[int]:
        """Returns one row and all of them."""
        return sorted({1, most_rows})

    def _rotations(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of positions [1, tokens], each [rotations, tokens, dimension].

        Without rotations they are empty.
        """
        if self._rotary is None:
            return hidden.new_empty(0), hidden.new_empty(0)
        kinds = self._rotation_kinds
        found = [self._rotary(hidden, positions, *([] if kind is None else [kind])) for kind in kinds]
        cos, sin = (torch.cat(each).to(hidden.dtype) for each in zip(*found, strict=True))
        return cos, sin

    def _forward(self, listed: TokenList, slabs: list[Slab]) -> Tensor:
        """Returns the logits that are asked for, float32 [asked, vocabulary], until the next call."""
        hidden = self._embed(torch.tensor(listed.ids))
        positions = torch.tensor([listed.positions])
        if self._positions is not None:
            hidden = hidden + self._positions(positions[0])
        cos, sin = self._rotations(hidden, positions)
        places, asked = torch.tensor(listed.places), torch.tensor(listed.asked, dtype=torch.int64)
        if len(listed.asked) > len(self._logits):
            self._logits = torch.empty(len(listed.asked), self.description.vocab_size)
        logits = self._logits[: len(listed.asked)]
        tokens = structures.Tokens(
            count=len(listed.ids),
            places=places.data_ptr(),
            hidden=hidden.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            slabs=(structures.Slab * len(slabs))(*map(_slab, slabs)),
            asked_count=len(listed.asked),
            asked=asked.data_ptr(),
            logits=logits.data_ptr(),
        )
        self.library.forward(self.description.structure, tokens)
        return logits


def _slab(slab: Slab) -> structures.Slab:
    """Returns where a slab's keys and values are; all layers have the same shape."""
    layers = [layer.buffers for layer in slab.attention_layers]
    pointers = ctypes.c_void_p * len(layers)
    row_stride, head_stride, *_ = layers[0][0].stride()
    return structures.Slab(
        pointers(*(keys.data_ptr() for keys, _ in layers)),
        pointers(*(values.data_ptr() for _, values in layers)),
        row_stride,
        head_stride,
    )


def _spread(logits: Tensor, listed: TokenList, skipped: int, prefill: Prefill) -> Tensor:
    """Returns the logits of a chunk's tokens, [tokens, vocabulary], as [rows, columns, vocabulary]; 0 on padding.

    They are copied only if there is padding.
    """
    places = torch.tensor(listed.places[skipped:])
    rows, columns = places[:, 1], places[:, 3] - prefill.chunk.begin
    shape = (int(rows[-1]) + 1, prefill.chunk.end - prefill.chunk.begin)
    if len(logits) == shape[0] * shape[1]:
        return logits.view(*shape, logits.shape[1])
    spread = logits.new_zeros(*shape, logits.shape[1])
    spread[rows, columns] = logits
    return spread
