"""A decode step from an input that stays where it is, through transformers' own forward pass made fit for capture."""

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ....memory.batch import Batch
from ....memory.copies import fill
from ....memory.storage import Storage
from ..kernels.ops import ABSENT, Bounds, Ops, Pool
from .attention import Decoding, UncapturableError, decoding, pool_cache


class StaticInput:
    """Tokens and bounds of a step of `rows` rows, some of which may be absent.

    The tensors stay where they are, and are filled anew for each step with one copy.
    """

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
        fill(self._buffer, torch.tensor([*tokens, *[0] * absent, *lengths, slab.window.end, slab.columns]))


class Forward(Protocol):
    """Computes a step from a static input, writing its keys and values into the pools."""

    def __call__(self, given: StaticInput) -> Tensor:
        """Returns logits, [rows, vocabulary]."""
        ...


def pools(storage: Storage) -> list[Pool]:
    """Returns each layer's memory.

    Raises UncapturableError if a layer keeps something else than keys and values of as many heads.
    """
    found = []
    for layer in storage.layers:
        if layer.tokens is None or layer.states:
            raise UncapturableError("it has layers that keep states")
        try:
            found.append(Pool.of(layer.tokens))
        except ValueError as error:
            raise UncapturableError(f"a layer has {error}") from error
    return found


class TransformersForward:
    """Any causal LM whose attention is looked up by name."""

    def __init__(self, model: Any, layers: Sequence[Pool], ops: Ops) -> None:  # noqa: ANN401 - no static type
        """Raises UncapturableError if the forward pass does not take what a step needs to tell it."""
        missing = {"position_ids", "past_key_values", "logits_to_keep"} - inspect.signature(
            model.forward
        ).parameters.keys()
        if missing:
            raise UncapturableError(f"its forward pass does not take {', '.join(sorted(missing))}")
        self.model = model
        self.ops = ops
        self.layers = list(layers)

    def __call__(self, given: StaticInput) -> Tensor:
        """See Forward. Raises UncapturableError if a layer's attention was not the step's."""
        step = Decoding(self.ops, given.bounds)
        with decoding(self.model, step):
            output = self.model(
                input_ids=given.tokens[:, None],
                position_ids=given.positions()[:, None],
                past_key_values=pool_cache(self.layers),
                use_cache=True,
                logits_to_keep=1,
            )
        if step.attended != len(self.layers):
            raise UncapturableError(
                f"only {step.attended} of {len(self.layers)} layers look their attention up by name"
            )
        logits: Tensor = output.logits
        return logits[:, -1]
