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

from bench.peer.nf4 import load_nf4
from bench.peer.protocol import Arrivals, Request, Setup, answer
from bench.static_batching import StepListener


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

        def on_step(step: int) -> None:
            for number, request in batch.items():
                if step < request.output_count:
                    arrivals.add(number)

        with torch.inference_mode():
            self._model.generate(
                **self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt"),
                max_new_tokens=max(request.output_count for request in batch.values()),
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
                streamer=StepListener(on_step),
            )


def prepare(setup: Setup) -> StaticGenerate:
    """Loads the model."""
    torch.set_num_threads(setup.threads)
    tokenizer = AutoTokenizer.from_pretrained(setup.model, padding_side="left")
    return StaticGenerate(load_nf4(setup.model), tokenizer, setup.rows, by_output="--sorted" in sys.argv)


if __name__ == "__main__":
    answer(prepare)
