"""textserve's own engine, in its worker's interpreter, without its service around it.

`--int8` rounds activations, as the worker's `--activations int8` does.
"""

import sys
from collections.abc import Sequence

import torch

from bench.peer.protocol import Arrivals, Request, Setup, answer
from worker.assembly import assemble
from worker.domain.config import Config
from worker.domain.sequence import Root, SamplingParameters
from worker.domain.sequence import Sequence as Row
from worker.engine.engine import Engine
from worker.loading.loading import load
from worker.runners.native.assembly import native_code
from worker.warm_up import warm_up


class TextserveEngine:
    """The engine, stepped until nothing is left to do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def serve(self, requests: Sequence[Request], arrivals: Arrivals) -> None:
        """Serves all requests with continuous batching."""
        scheduler = self._engine.scheduler
        for number, request in enumerate(requests):
            row = Row(number, request.prompt, SamplingParameters(max_new_tokens=request.output_count))
            scheduler.submit(Root(request.prompt, [row]))
        while scheduler.has_work:
            for output in self._engine.step().outputs:
                arrivals.add(output.sequence.sequence_id)


def prepare(setup: Setup) -> TextserveEngine:
    """Loads the model as a worker does."""
    torch.set_num_threads(setup.threads)
    config = Config(model=setup.model, max_rows=setup.rows, activations="int8" if "--int8" in sys.argv else "auto")
    loaded = load(config, native_code(config))
    engine = assemble(loaded, config)
    warm_up(engine, loaded.facts.vocab_size)
    return TextserveEngine(engine)


if __name__ == "__main__":
    answer(prepare)
