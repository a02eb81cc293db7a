"""transformers' `generate()` on static, left-padded batches, in our own environment.

    python -m bench.peer.static_generate [--sorted]

A batch takes as long as its longest output; tokens beyond a request's own output are not counted. --sorted: not in
order of arrival but by length of output, the longest first. No server knows it beforehand: that is the best that static
batches could do.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.generation.streamers import BaseStreamer

from bench.peer.nf4 import load_nf4
from bench.peer.protocol import Arrivals, Request, Setup, answer


class StepTimes(BaseStreamer):
    """Notes a token for every request of a batch that still wants one, at each step."""

    def __init__(self, wanted: dict[int, int], arrivals: Arrivals) -> None:
        """`wanted`: how many tokens each request wants, by its number."""
        self._wanted = wanted
        self._arrivals = arrivals
        self._made = -1  # what `generate()` puts first is the prompt

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 - when it comes is all that counts
        """Takes the prompt, then each step's tokens."""
        self._made += 1
        for number, count in self._wanted.items():
            if 0 < self._made <= count:
                self._arrivals.add(number)

    def end(self) -> None:
        """Does nothing: every step has been noted."""


class StaticGenerate:
    """A model and its tokenizer, which pads."""

    def __init__(self, model: Any, tokenizer: Any, rows: int, *, by_output: bool) -> None:  # noqa: ANN401
        self._model = model
        self._tokenizer = tokenizer
        self._rows = rows
        self._by_output = by_output

    def serve(self, requests: Sequence[Request], arrivals: Arrivals) -> None:
        """Serves the requests batch by batch."""
        order = list(range(len(requests)))
        if self._by_output:
            order.sort(key=lambda number: -requests[number].output_count)
        for first in range(0, len(order), self._rows):
            self._generate({number: requests[number] for number in order[first : first + self._rows]}, arrivals)

    def _generate(self, batch: dict[int, Request], arrivals: Arrivals) -> None:
        prompts = [request.prompt for request in batch.values()]
        wanted = {number: request.output_count for number, request in batch.items()}
        with torch.inference_mode():
            self._model.generate(
                **self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt"),
                max_new_tokens=max(wanted.values()),
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
                streamer=StepTimes(wanted, arrivals),
            )


def prepare(setup: Setup) -> StaticGenerate:
    """Loads the model."""
    torch.set_num_threads(setup.threads)
    tokenizer = AutoTokenizer.from_pretrained(setup.model, padding_side="left")
    return StaticGenerate(load_nf4(setup.model), tokenizer, setup.rows, by_output="--sorted" in sys.argv)


if __name__ == "__main__":
    answer(prepare)
