"""The baseline: transformers' `generate()` on static, left-padded batches, each run until its longest output ends."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from bench.peer.protocol import Request
from worker.loading.loading import LoadedModel


class StepListener(BaseStreamer):
    """Tells when `generate()` has a new token for every row of its batch."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        """Calls `on_step` with the number of each step's token, from 0."""
        self._on_step = on_step
        self._next = -1  # what `generate()` puts first is the prompt

    def put(self, value: Tensor) -> None:  # noqa: ARG002 - when it comes is all that counts
        """Takes the prompt, then each step's tokens."""
        if self._next >= 0:
            self._on_step(self._next)
        self._next += 1

    def end(self) -> None:
        """Does nothing: the last step has been told."""


def generate_batch(loaded: LoadedModel, batch: Sequence[Request], on_step: Callable[[int], None] | None = None) -> None:
    """Serves one batch, greedily; calls `on_step` with the number of each step's token, from 0, as it is made."""
    width = max(len(request.prompt) for request in batch)
    padding = [width - len(request.prompt) for request in batch]
    ids = torch.tensor([[0] * pad + request.prompt for pad, request in zip(padding, batch, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
    with torch.inference_mode():
        loaded.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(request.output_count for request in batch),
            do_sample=False,
            pad_token_id=0,
            streamer=StepListener(on_step) if on_step else None,
        )


def run_generate(loaded: LoadedModel, requests: Sequence[Request], rows: int) -> None:
    """Serves all requests in the order given, `rows` at a time."""
    for first in range(0, len(requests), rows):
        generate_batch(loaded, requests[first : first + rows])


def by_output(requests: Sequence[Request]) -> list[Request]:
    """Returns requests by length of output, the longest first: the best order for static batches.

    A server does not know it beforehand: with this order `generate()` is given more than it could have.
    """
    return sorted(requests, key=lambda request: request.output_count, reverse=True)
