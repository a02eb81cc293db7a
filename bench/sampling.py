"""Measures sampling: rows with settings of their own against rows with equal ones, and what each stage costs.

    python -m bench.sampling [--json] [--rounds N]

Two samplers are measured in the same run: torch's, and the one in C that a worker on a CPU uses.

16 rows, vocabularies of 32,000 and 128,000 tokens, a history of 200 tokens that grows by one each step. What a setting
costs depends on it (a flatter distribution leaves more to sort), so there are 16 batches of 16 equal rows, one for each
of 16 settings, and beside each of them a batch of 16 rows with all 16 settings. They take their steps in turns; the
mean of the medians of one kind is compared with that of the other. Times are of the processor, so that neighbours on
the machine do not count. A stage's own cost is what a step takes with it alone, above a step without any. The bar is of
elapsed time on two threads instead, for the setting that most services use.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.report import arguments, show
from worker.domain.sequence import SamplingParameters
from worker.domain.sequence import Sequence as Row
from worker.loading.cpu_level import cpu_level
from worker.runners.native.library import compiled
from worker.sampling.native.native_sampler import FLAGS, SOURCE, NativeSampler
from worker.sampling.sampler import Sampled, sample

BAR = 1.05
ROWS = 16
HISTORY = 200
VOCABULARIES = (32_000, 128_000)
STEPS = 4

BAR_SETTINGS: Mapping[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 50}
BAR_MS = {32_000: 1.5, 262_144: 6.0}
"""By vocabulary: what a step of 16 rows may take on two threads."""

Sampler = Callable[[Tensor, Sequence[Row]], Sampled]
Settings = Callable[[float], Mapping[str, Any]]


def tokens(place: float, count: int, offset: int = 0) -> list[int]:
    """Returns ids of common tokens; other ones at another place."""
    return [offset + int(place * 100) + 11 * number for number in range(count)]


PROCESSORS: dict[str, Settings] = {
    "logit_bias": lambda n: {"logit_bias": tuple((token, 0.1 * (n + 1)) for token in tokens(n, 40))},
    "repetition_penalty": lambda n: {"repetition_penalty": 1.02 + 0.02 * n},
    "presence and frequency penalty": lambda n: {"presence_penalty": 0.1 * n, "frequency_penalty": 0.05 * n + 0.01},
    "no_repeat_ngram_size": lambda n: {"no_repeat_ngram_size": 2 + int(n) % 3},
    "bad_words_ids": lambda n: {"bad_words_ids": tuple((token, token + 1) for token in tokens(n, 40))},
    "min_new_tokens": lambda n: {"min_new_tokens": 10**6 + int(n)},
    "exponential_decay": lambda n: {"exponential_decay": (2 + int(n), 1.01 + 0.001 * n)},
    "suppress_tokens": lambda n: {"suppress_tokens": frozenset(tokens(n, 80, offset=5000))},
}
ALLOWED: dict[str, Settings] = {
    "allowed_token_ids": lambda n: {"allowed_token_ids": frozenset(tokens(n, 1000, offset=3))},
}
WARPERS: dict[str, Settings] = {
    "temperature": lambda n: {"temperature": 0.6 + 0.05 * n},
    "top_k": lambda n: {"top_k": 25 + int(10 * n)},
    "top_p": lambda n: {"top_p": 0.8 + 0.01 * n},
    "min_p": lambda n: {"min_p": 0.005 + 0.002 * n},
    "typical_p": lambda n: {"typical_p": 0.8 + 0.01 * n},
    "epsilon_cutoff": lambda n: {"epsilon_cutoff": 1e-4 + 1e-5 * n},
}
LOGPROBS: dict[str, Settings] = {"logprobs": lambda n: {"logprobs": True, "top_logprobs": 2 + int(n) % 4}}


def rows_at(places: Sequence[float], stages: Mapping[str, Settings], *, do_sample: bool) -> list[Row]:
    """Returns rows with a history each, and settings of their own places."""
    rng = random.Random(0)
    rows = []
    for number, place in enumerate(places):
        settings = {name: value for stage in stages.values() for name, value in stage(place).items()}
        parameters = SamplingParameters(
            10**9, seed=number, do_sample=do_sample, eos_token_ids=frozenset({1, 2}), **settings
        )
        history = [rng.randrange(3, 3000) for _ in range(HISTORY)]
        rows.append(Row(number, history[: HISTORY // 2], parameters, output=history[HISTORY // 2 :]))
    return rows


def step_seconds(
    sampler: Sampler, rows: list[Row], logits: Tensor, clock: Callable[[], float] = time.thread_time
) -> float:
    """Takes one step and returns how long its sampling took."""
    began = clock()
    sampled = sampler(logits, rows)
    taken = clock() - began
    for row, token in zip(rows, sampled.tokens, strict=True):
        row.output.append(token)
    return taken


def medians(sampler: Sampler, sides: Sequence[list[Row]], logits: Sequence[Tensor], steps: int) -> list[float]:
    """Returns each side's median step in seconds; the sides take their steps in turns."""
    taken: list[list[float]] = [[] for _ in sides]
    for step in range(steps + 2):
        for turn in range(len(sides)):
            side = (step + turn) % len(sides)
            seconds = step_seconds(sampler, sides[side], logits[step % len(logits)])
            if step >= 2:
                taken[side].append(seconds)
    return [statistics.median(each) for each in taken]


def bar(samplers: Mapping[str, Sampler], vocabulary: int, rounds: int) -> dict[str, object]:
    """Returns the elapsed milliseconds of a step with the bar's settings, median and least; samplers take turns."""
    logits = logits_of(vocabulary)
    parameters = [SamplingParameters(10**9, seed=seed, do_sample=True, **BAR_SETTINGS) for seed in range(ROWS)]
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    for step in range(10 * rounds):
        for name, sampler in samplers.items():
            rows = [Row(number, [1], each, output=[0] * step) for number, each in enumerate(parameters)]
            taken[name].append(1000 * step_seconds(sampler, rows, logits[step % len(logits)], time.perf_counter))
    figures: dict[str, object] = {
        f"{name}, {what} ms": value
        for name, each in taken.items()
        for what, value in (("median", statistics.median(each)), ("least", min(each)))
    }
    return {"vocabulary": vocabulary} | figures


def logits_of(vocabulary: int) -> list[Tensor]:
    """Returns logits of some steps, about as peaked as a model's."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, vocabulary, generator=generator) * 2.5 for _ in range(4)]


def compare(
    sampler: Sampler, name: str, stages: Mapping[str, Settings], vocabulary: int, rounds: int
) -> dict[str, object]:
    """Returns the cost of a step with equal and with different settings, in milliseconds, and their ratio."""
    do_sample = "temperature" in stages
    places = [each for place in range(ROWS) for each in ([place] * ROWS, range(ROWS))]
    sides = [rows_at(each, stages, do_sample=do_sample) for each in places]
    taken = medians(sampler, sides, logits_of(vocabulary), STEPS * rounds)
    equal, different = statistics.mean(taken[::2]), statistics.mean(taken[1::2])
    return {
        "rows use": name,
        "vocabulary": vocabulary,
        "equal ms": 1000 * equal,
        "different ms": 1000 * different,
        "ratio": different / equal,
    }


def costs(sampler: Sampler, vocabulary: int, rounds: int) -> list[dict[str, object]]:
    """Returns what greedy rows cost, and each stage alone beside them, in microseconds for a step of all rows."""
    logits = logits_of(vocabulary)
    found: list[dict[str, object]] = []
    for title, stages, do_sample in (
        ("greedy", PROCESSORS | ALLOWED | LOGPROBS, False),
        ("sampling", WARPERS, True),
    ):
        base = rows_at(range(ROWS), {}, do_sample=do_sample)
        found.append({"step": f"{title} alone", "us": 1e6 * medians(sampler, [base], logits, 2 * STEPS * rounds)[0]})
        for name, settings in stages.items():
            sides = [base, rows_at(range(ROWS), {name: settings}, do_sample=do_sample)]
            without, with_it = medians(sampler, sides, logits, 2 * STEPS * rounds)
            found.append({"step": f"{title}, {name}", "us": 1e6 * (with_it - without)})
    return found


def main() -> int:
    """Runs the bench."""
    flags = arguments(__doc__ or "")
    library = compiled(SOURCE, cpu_level(), flags=FLAGS)
    cases = {
        "every processor": PROCESSORS | ALLOWED,
        "every warper": WARPERS,
        "every stage and logprobs": PROCESSORS | ALLOWED | WARPERS | LOGPROBS,
        "temperature, top_k, top_p": {name: WARPERS[name] for name in ("temperature", "top_k", "top_p")},
        "temperature, top_k, top_p, repetition_penalty": {
            name: (WARPERS | PROCESSORS)[name] for name in ("temperature", "top_k", "top_p", "repetition_penalty")
        },
    }
    with torch.inference_mode():
        torch.set_num_threads(2)
        elapsed = [
            bar({"torch": sample, "C": NativeSampler(library, 2)}, vocabulary, flags.rounds) for vocabulary in BAR_MS
        ]
        torch.set_num_threads(1)
        samplers: Mapping[str, Sampler] = {"torch": sample, "C": NativeSampler(library, 1)}
        compared = [
            {"sampler": kind} | compare(sampler, name, cases[name], size, flags.rounds)
            for kind, sampler in samplers.items()
            for size in VOCABULARIES
            for name in cases
        ]
        tables = {
            "elapsed time of a step of 16 rows, temperature 0.7, top_p 0.9, top_k 50, two threads": elapsed,
            "equal and different settings, a step of 16 rows": compared,
        } | {
            f"vocabulary of {size:,}: cost of a step of 16 rows, by {kind}": costs(sampler, size, flags.rounds)
            for size in VOCABULARIES
            for kind, sampler in samplers.items()
        }
    checks = {
        f"at most {BAR_MS[vocabulary]} ms with {vocabulary:,} tokens": float(str(row["C, median ms"]))
        <= BAR_MS[vocabulary]
        for vocabulary, row in zip(BAR_MS, elapsed, strict=True)
    } | {
        f"different settings cost at most {BAR} times equal ones: {row['sampler']}, {row['rows use']}, "
        f"{row['vocabulary']:,}": float(str(row["ratio"])) <= BAR
        for row in compared
    }
    return show("sampling", tables, checks, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
