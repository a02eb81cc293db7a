"""Measures sampling: rows with settings of their own against rows with equal ones, and what each stage costs.

    python -m bench.sampling [--json] [--rounds N]

16 rows, vocabularies of 32,000 and 128,000 tokens, a history of 200 tokens that grows by one each step. What a setting
costs depends on it (a flatter distribution leaves more to sort), so there are 16 batches of 16 equal rows, one for each
of 16 settings, and beside each of them a batch of 16 rows with all 16 settings. They take their steps in turns; the
mean of the medians of one kind is compared with that of the other. Times are of the processor, so that neighbours on
the machine do not count. A stage's own cost is what a step takes with it alone, above a step without any.
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
from worker.sampling.sampler import sample

BAR = 1.05
ROWS = 16
HISTORY = 200
VOCABULARIES = (32_000, 128_000)
STEPS = 4

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


def step_seconds(rows: list[Row], logits: Tensor) -> float:
    """Takes one step and returns how long its sampling took."""
    began = time.thread_time()
    sampled = sample(logits, rows)
    taken = time.thread_time() - began
    for row, token in zip(rows, sampled.tokens, strict=True):
        row.output.append(token)
    return taken


def medians(sides: Sequence[list[Row]], logits: Sequence[Tensor], steps: int) -> list[float]:
    """Returns each side's median step in seconds; the sides take their steps in turns."""
    taken: list[list[float]] = [[] for _ in sides]
    for step in range(steps + 2):
        for turn in range(len(sides)):
            side = (step + turn) % len(sides)
            seconds = step_seconds(sides[side], logits[step % len(logits)])
            if step >= 2:
                taken[side].append(seconds)
    return [statistics.median(each) for each in taken]


def logits_of(vocabulary: int) -> list[Tensor]:
    """Returns logits of some steps, about as peaked as a model's."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, vocabulary, generator=generator) * 2.5 for _ in range(4)]


def compare(name: str, stages: Mapping[str, Settings], vocabulary: int, rounds: int) -> dict[str, object]:
    """Returns the cost of a step with equal and with different settings, in milliseconds, and their ratio."""
    do_sample = "temperature" in stages
    places = [each for place in range(ROWS) for each in ([place] * ROWS, range(ROWS))]
    sides = [rows_at(each, stages, do_sample=do_sample) for each in places]
    taken = medians(sides, logits_of(vocabulary), STEPS * rounds)
    equal, different = statistics.mean(taken[::2]), statistics.mean(taken[1::2])
    return {
        "rows use": name,
        "vocabulary": vocabulary,
        "equal ms": 1000 * equal,
        "different ms": 1000 * different,
        "ratio": different / equal,
    }


def costs(vocabulary: int, rounds: int) -> list[dict[str, object]]:
    """Returns what greedy rows cost, and each stage alone beside them, in microseconds for a step of all rows."""
    logits = logits_of(vocabulary)
    found: list[dict[str, object]] = []
    for title, stages, do_sample in (
        ("greedy", PROCESSORS | ALLOWED | LOGPROBS, False),
        ("sampling", WARPERS, True),
    ):
        base = rows_at(range(ROWS), {}, do_sample=do_sample)
        found.append({"step": f"{title} alone", "us": 1e6 * medians([base], logits, 2 * STEPS * rounds)[0]})
        for name, settings in stages.items():
            sides = [base, rows_at(range(ROWS), {name: settings}, do_sample=do_sample)]
            without, with_it = medians(sides, logits, 2 * STEPS * rounds)
            found.append({"step": f"{title}, {name}", "us": 1e6 * (with_it - without)})
    return found


def main() -> int:
    """Runs the bench."""
    flags = arguments(__doc__ or "")
    torch.set_num_threads(1)
    cases = {
        "every processor": PROCESSORS | ALLOWED,
        "every warper": WARPERS,
        "every stage and logprobs": PROCESSORS | ALLOWED | WARPERS | LOGPROBS,
        "temperature, top_k, top_p, repetition_penalty": {
            name: (WARPERS | PROCESSORS)[name] for name in ("temperature", "top_k", "top_p", "repetition_penalty")
        },
    }
    with torch.inference_mode():
        compared = [compare(name, cases[name], size, flags.rounds) for size in VOCABULARIES for name in cases]
        tables = {"equal and different settings, a step of 16 rows": compared} | {
            f"vocabulary of {size:,}: cost of a step of 16 rows": costs(size, flags.rounds) for size in VOCABULARIES
        }
    checks = {
        f"different settings cost at most {BAR} times equal ones: {row['rows use']}, {row['vocabulary']:,}": float(
            str(row["ratio"])
        )
        <= BAR
        for row in compared
    }
    return show("sampling", tables, checks, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
