"""OpenVINO GenAI's continuous batching with INT4 weights, exported by optimum-intel; it computes in int8."""

import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.peer.protocol import Arrivals, Request, Setup, answer

genai: Any = import_module("openvino_genai")  # by name: type checkers run where it is not installed
openvino: Any = import_module("openvino")

_CACHE_GIB = 1
_BATCH_TOKENS = 2048


class OpenVinoGenAI:
    """A pipeline that is stepped until nothing is left to do."""

    def __init__(self, pipeline: Any) -> None:  # noqa: ANN401 - it is not installed everywhere
        self._pipeline = pipeline

    def serve(self, requests: Sequence[Request], arrivals: Arrivals) -> None:
        """Serves all requests with continuous batching."""
        handles = [self._add(number, request) for number, request in enumerate(requests)]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for number, handle in enumerate(handles):
                if handle.can_read():
                    for output in handle.read().values():
                        for _ in output.generated_ids:
                            arrivals.add(number)

    def _add(self, number: int, request: Request) -> Any:  # noqa: ANN401
        config = genai.GenerationConfig()
        config.max_new_tokens = request.output_count
        config.set_eos_token_id(0)  # there must be one
        config.ignore_eos = True
        config.do_sample = False
        prompt = openvino.Tensor(np.array([request.prompt], dtype=np.int64))
        return self._pipeline.add_request(number, prompt, config)


def prepare(setup: Setup) -> OpenVinoGenAI:
    """Exports the model with INT4 weights, optimum-intel's usual way, and loads it."""
    folder = Path(setup.scratch) / "int4"
    program = Path(sys.executable).with_name("optimum-cli")
    export = ["export", "openvino", "--task", "text-generation-with-past", "--weight-format", "int4"]
    subprocess.run([program, *export, "--model", setup.model, folder], check=True)
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = _CACHE_GIB
    scheduler.max_num_seqs = setup.rows
    scheduler.max_num_batched_tokens = _BATCH_TOKENS
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": setup.threads}
    return OpenVinoGenAI(genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties))


if __name__ == "__main__":
    answer(prepare)
