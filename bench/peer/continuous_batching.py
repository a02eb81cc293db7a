"""transformers' continuous batching (`init_continuous_batching`) with SDPA attention, in our own environment."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from bench.peer.nf4 import load_nf4
from bench.peer.protocol import Arrivals, Request, Setup, answer

_WAIT_S = 60.0
BLOCKS_PER_ROW = 8
"""Of 256 tokens. By default 60 % of the machine's free memory would be taken."""
_NO_TOKEN = -1


class ContinuousBatching:
    """A manager whose thread is running."""

    def __init__(self, manager: Any) -> None:  # noqa: ANN401 - it is untyped
        self._manager = manager

    def serve(self, requests: Sequence[Request], arrivals: Arrivals) -> None:
        """Serves all requests. Raises RuntimeError if one of them fails, or if none ends for a minute."""
        waiting = {
            self._manager.add_request(
                request.prompt, max_new_tokens=request.output_count, eos_token_id=_NO_TOKEN, record_timestamps=True
            ): number
            for number, request in enumerate(requests)
        }
        while waiting:
            result = self._manager.get_result(timeout=_WAIT_S)
            if result is None or result.error:
                raise RuntimeError(result.error if result else f"no result for {_WAIT_S} s")
            number = waiting.pop(result.request_id)
            for at in result.timestamps:
                arrivals.add(number, at)


def prepare(setup: Setup) -> ContinuousBatching:
    """Loads the model and starts the manager."""
    torch.set_num_threads(setup.threads)
    model = load_nf4(setup.model)
    model.set_attn_implementation("sdpa")
    config = ContinuousBatchingConfig(
        num_blocks=BLOCKS_PER_ROW * setup.rows,
        max_requests_per_batch=setup.rows,
        allow_block_sharing=False,
    )
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=_NO_TOKEN, pad_token_id=0),
        continuous_batching_config=config,
    )
    manager.start()
    return ContinuousBatching(manager)


if __name__ == "__main__":
    answer(prepare)
