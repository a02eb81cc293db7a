"""Measures the engine against `generate()` on static left-padded batches, and a step against its linear kernels.

    python -m bench.engine [--json] [--rounds N]

The mixed set: 32 requests, prompts of 8 to 95 tokens, outputs of 8 to 63. `generate()` serves them in order of arrival,
in batches of the same number of rows; a batch takes as long as its longest output. Tokens beyond a request's own output
are not counted as useful. Both sides run the same NF4 model in turns; medians of the rounds are printed.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.random_model import VOCAB_SIZE, random_llama
from bench.report import arguments, show
from worker.assembly import assemble
from worker.config import Config
from worker.engine import Engine
from worker.loading import LoadedModel
from worker.sequence import Root, SamplingParameters, Sequence
from worker.warm_up import warm_up

BAR = 1.3


@dataclass(frozen=True)
class Request:
    """One request of the mixed set."""

    prompt: list[int]
    output_count: int


def mixed_set(count: int = 32) -> list[Request]:
    """Returns the requests; the same on every call."""
    rng = random.Random(0)
    return [
        Request([rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randint(8, 95))], rng.randint(8, 63))
        for _ in range(count)
    ]


def seconds(work: Callable[[], object]) -> float:
    """Returns how long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run_engine(engine: Engine, requests: list[Request]) -> None:
    """Serves all requests with continuous batching."""
    for number, request in enumerate(requests):
        parameters = SamplingParameters(max_new_tokens=request.output_count)
        engine.scheduler.submit(Root(request.prompt, [Sequence(number, request.prompt, parameters)]))
    while engine.scheduler.has_work:
        engine.step()


def run_generate(loaded: LoadedModel, requests: list[Request], rows: int) -> None:
    """Serves all requests with `generate()` on static left-padded batches, in order of arrival."""
    for first in range(0, len(requests), rows):
        batch = requests[first : first + rows]
        width = max(len(request.prompt) for request in batch)
        ids = torch.tensor([[0] * (width - len(request.prompt)) + request.prompt for request in batch])
        mask = torch.tensor([[0] * (width - len(request.prompt)) + [1] * len(request.prompt) for request in batch])
        steps = max(request.output_count for request in batch)
        with torch.inference_mode():
            loaded.model.generate(ids, attention_mask=mask, max_new_tokens=steps, do_sample=False, pad_token_id=0)


def compare(loaded: LoadedModel, rows: int, rounds: int) -> dict[str, object]:
    """Returns both throughputs on the mixed set, in useful tokens per second, and their ratio."""
    requests = mixed_set()
    engine = assemble(loaded, Config(max_rows=rows))
    warm_up(engine)
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(seconds(lambda: run_generate(loaded, requests, rows)))
        ours.append(seconds(lambda: run_engine(engine, requests)))
    useful = sum(request.output_count for request in requests)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "rows": rows,
        "engine tokens/s": useful / statistics.median(ours),
        "generate() tokens/s": useful / statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "slides": engine.batch.slides,
        "views": engine.batch.reviews,
        "preemptions": engine.scheduler.preemptions,
    }


def kernel_milliseconds(loaded: LoadedModel, rows: int, repeats: int) -> float:
    """Returns the time of one step's 4-bit kernels, called directly on the packed weights, in milliseconds."""
    layers = [module for module in loaded.model.modules() if type(module).__name__ == "Linear4bit"]
    inputs = {layer.in_features: torch.randn(rows, layer.in_features, dtype=torch.bfloat16) for layer in layers}
    calls = [
        (inputs[layer.in_features], layer.weight.data, layer.weight.quant_state.shape, layer.weight.quant_state)
        for layer in layers
    ]
    kernel = torch.ops.bitsandbytes.gemv_4bit.default

    def run() -> None:
        for given, weight, shape, state in calls:
            kernel(given, weight, shape, state.absmax, state.code, state.blocksize)

    run()
    return 1000 * statistics.median(seconds(run) for _ in range(repeats))


def step_milliseconds(loaded: LoadedModel, rows: int, repeats: int) -> float:
    """Returns the time of one decode step with all rows running, sampling included, in milliseconds."""
    engine = assemble(loaded, Config(max_rows=rows))
    for number in range(rows):
        parameters = SamplingParameters(max_new_tokens=repeats + 20)
        prompt = [1 + number] * 32
        engine.scheduler.submit(Root(prompt, [Sequence(number, prompt, parameters)]))
    while len(engine.scheduler.running) < rows:
        engine.step()
    for _ in range(5):
        engine.step()
    return 1000 * statistics.median(seconds(engine.step) for _ in range(repeats))


def step_over_kernels(loaded: LoadedModel, rows: int, rounds: int) -> dict[str, object]:
    """Returns a decode step's time over that of its linear kernels."""
    kernels, steps = [], []
    for _ in range(rounds):
        kernels.append(kernel_milliseconds(loaded, rows, 20))
        steps.append(step_milliseconds(loaded, rows, 20))
    kernel, step = statistics.median(kernels), statistics.median(steps)
    return {"rows": rows, "step ms": step, "linear kernels ms": kernel, "step / kernels": step / kernel}


def main() -> int:
    """Runs the bench."""
    flags = arguments(__doc__ or "")
    loaded = random_llama()
    warm_up(assemble(loaded, Config(max_rows=2)))
    throughput = [compare(loaded, rows, flags.rounds) for rows in (8, 16)]
    steps = [step_over_kernels(loaded, rows, flags.rounds) for rows in (1, 4, 8, 16)]
    checks = {
        f"at least {BAR} times generate() at {row['rows']} rows": float(str(row["ratio"])) >= BAR for row in throughput
    }
    tables = {"mixed set": throughput, "decode step": steps}
    return show("engine", tables, checks, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
