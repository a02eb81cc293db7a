"""Runs the model on batches. Nothing else calls it.

Three things are always given explicitly, because a causal LM of transformers left to itself gets them wrong with
left padding: the attention mask, the position ids, and which positions need logits.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from ..domain.plan import Chunk
from ..memory.batch import Batch
from ..memory.copies import TORCH_MOVES, Moves, on_device
from ..memory.group import PrefillGroup
from ..memory.slab import Slab
from .runner import Logits, Prefill


class CausalLM(Protocol):
    """What is used of a transformers model."""

    def __call__(self, **inputs: object) -> "CausalLMOutput":
        """Runs a forward pass."""
        ...


class CausalLMOutput(Protocol):
    """What is used of its answer."""

    logits: Tensor


class ModelRunner:
    """Decode and prefill over any model, by transformers' own forward pass."""

    reads_padding = True
    moves: Moves = TORCH_MOVES

    def __init__(
        self,
        model: CausalLM,
        *,
        device: torch.device,
        takes_position_ids: bool = True,
        takes_logits_to_keep: bool = True,
        takes_cache_params: bool = False,
    ) -> None:
        """Tells what the model's forward pass takes.

        Args:
            model: the transformers model.
            device: where token ids go.
            takes_position_ids: false for models that derive positions from the mask, or need none.
            takes_logits_to_keep: false for models that always compute all logits.
            takes_cache_params: true for Mamba's family, which has this name for `past_key_values`, and whose mask
                covers only the tokens given.
        """
        self.model = model
        self.device = device
        self.takes_position_ids = takes_position_ids
        self.takes_logits_to_keep = takes_logits_to_keep
        self.takes_cache_params = takes_cache_params

    @classmethod
    def for_model(cls, model: torch.nn.Module, device: torch.device) -> "ModelRunner":
        """Looks at the signature of the model's forward pass."""
        names = inspect.signature(model.forward).parameters
        return cls(
            model,
            device=device,
            takes_position_ids="position_ids" in names,
            takes_logits_to_keep="logits_to_keep" in names,
            takes_cache_params="cache_params" in names,
        )

    def step(self, batch: Batch, tokens: list[int], prefill: Prefill | None) -> Logits:
        """Decodes, then reads the chunk; as `Runner.step`."""
        decoded = self.decode(batch, tokens) if tokens else None
        if prefill is None:
            return Logits(decoded)
        return Logits(decoded, self.prefill(prefill.group, prefill.chunk, all_positions=prefill.all_positions))

    def trial(self) -> AbstractContextManager[None]:
        """Expects no fault."""
        return nullcontext()

    def release(self) -> bool:
        """Has nothing to free."""
        return False

    def first_steps(self, most_rows: int) -> list[int]:
        """Returns one row and all of them."""
        return sorted({1, most_rows})

    def decode(self, batch: Batch, tokens: list[int]) -> Tensor:
        """Feeds each row its newest token. Returns logits, [rows, vocabulary]."""
        batch.make_room()
        input_ids = on_device(tokens, self.device)[:, None]
        logits = self._forward(batch.slab, input_ids, batch.attention_mask(), batch.position_ids())
        batch.advance()
        return logits[:, -1]

    def prefill(self, group: PrefillGroup, chunk: Chunk, *, all_positions: bool = False) -> Tensor:
        """Reads a chunk of the group's columns.

        Returns the logits of its last column for the rows that take part, [rows, vocabulary], or of all its columns,
        [rows, columns, vocabulary].
        """
        group.skip_to(chunk.begin)
        given = group.chunk(chunk.begin, chunk.end)
        logits = self._forward(
            group.slab, given.input_ids, given.attention_mask, given.position_ids, all_positions=all_positions
        )
        group.advance(chunk.end)
        return logits if all_positions else logits[:, -1]

    def _forward(
        self,
        slab: Slab,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        *,
        all_positions: bool = False,
    ) -> Tensor:
        rows, columns = input_ids.shape
        inputs: dict[str, object] = {"cache_params" if self.takes_cache_params else "past_key_values": slab.cache(rows)}
        if self.takes_position_ids:
            inputs["position_ids"] = position_ids
        if self.takes_logits_to_keep:
            inputs["logits_to_keep"] = 0 if all_positions else 1
        mask = attention_mask[:, -columns:] if self.takes_cache_params else attention_mask
        output = self.model(input_ids=input_ids, attention_mask=mask, use_cache=True, **inputs)
        return output.logits
