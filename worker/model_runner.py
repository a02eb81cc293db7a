"""Runs the model on batches. Nothing else calls it.

Three things are always given explicitly, because a causal LM of transformers left to itself gets them wrong with
left padding: the attention mask, the position ids, and which positions need logits.
"""

from typing import Protocol

import torch
from torch import Tensor

from .batch import Batch
from .group import PrefillGroup
from .scheduler import Chunk


class CausalLM(Protocol):
    """What is used of a transformers model."""

    def __call__(self, **inputs: object) -> "CausalLMOutput":
        """Runs a forward pass."""
        ...


class CausalLMOutput(Protocol):
    """What is used of its answer."""

    logits: Tensor


class ModelRunner:
    """Decode and prefill over one model."""

    def __init__(self, model: CausalLM, *, takes_position_ids: bool, device: torch.device) -> None:
        self.model = model
        self.takes_position_ids = takes_position_ids
        self.device = device

    def decode(self, batch: Batch, tokens: list[int]) -> Tensor:
        """Feeds each row its newest token. Returns logits, [rows, vocabulary]."""
        batch.make_room()
        input_ids = torch.tensor(tokens, device=self.device)[:, None]
        logits = self._forward(batch.slab.cache, input_ids, batch.attention_mask(), batch.position_ids())
        batch.advance()
        return logits

    def prefill(self, group: PrefillGroup, chunk: Chunk) -> Tensor:
        """Reads a chunk of the group's columns. Returns its last column's logits, [rows that take part, vocabulary]."""
        group.advance(chunk.begin)
        given = group.chunk(chunk.begin, chunk.end)
        logits = self._forward(group.slab.cache, given.input_ids, given.attention_mask, given.position_ids)
        group.advance(chunk.end)
        return logits

    def _forward(self, cache: object, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        inputs: dict[str, object] = {"position_ids": position_ids} if self.takes_position_ids else {}
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        return output.logits[:, -1]
