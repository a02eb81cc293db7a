"""What the C sampler chooses, beside what torch does."""

import random
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.domain.outcome import TokenLogprob
from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.sampler import Sampled, sample

Sampler = Callable[[Tensor, Rows[Sequence]], Sampled]

LOGPROB_TOLERANCE = 2e-5
"""Of log-probabilities down to about -100, whose sum torch rounds at every step."""


def new_rows(rows: Rows[Sequence]) -> list[Sequence]:
    """Returns sequences of which nothing is kept yet."""
    return [Sequence(row.sequence_id, row.prompt, row.parameters, output=list(row.output)) for row in rows]


def assert_same(native: Sampler, logits: Tensor, rows: Rows[Sequence]) -> None:
    """Holds one step of the C sampler to torch's."""
    before = logits.clone()
    ours, theirs = native(logits, rows), sample(before, new_rows(rows))
    assert ours.finite == theirs.finite
    assert torch.equal(logits.view(torch.int32), before.view(torch.int32)), "the caller's logits are not changed"
    for index, finite in enumerate(ours.finite):
        assert 0 <= ours.tokens[index] < logits.shape[1]
        if finite:
            assert ours.tokens[index] == theirs.tokens[index], (index, rows[index])
        mine, other = ours.logprobs[index], theirs.logprobs[index]
        assert (mine is None) == (other is None)
        if mine and other:
            assert_same_logprobs(mine, other, logits[index], ours.tokens[index])


def assert_same_logprobs(mine: TokenLogprob, other: TokenLogprob, logits: Tensor, token: int) -> None:
    """Holds log-probabilities to be equal but for float32's rounding, in which different logits may become equals."""
    assert mine.logprob == pytest.approx(other.logprob, abs=LOGPROB_TOLERANCE)
    margin = 5e-7 * (1 + abs(other.logprob))
    ranks = [1 + int((logits > logits[token] + each).sum()) for each in (margin, -margin)]
    assert mine.rank == other.rank or min(ranks) <= mine.rank <= max(ranks)
    assert len(mine.top) == len(other.top)
    for (first, value), (second, wanted) in zip(mine.top, other.top, strict=True):
        assert value == pytest.approx(wanted, abs=LOGPROB_TOLERANCE)
        assert first == second or logits[first] == pytest.approx(float(logits[second]), abs=5e-7 * (1 + abs(wanted)))


def with_seeds(row: Sequence, count: int) -> list[Sequence]:
    """Returns rows that differ in what they draw alone."""
    return [
        Sequence(number, row.prompt, replace(row.parameters, seed=row.parameters.seed + number), output=row.output)
        for number in range(count)
    ]


def random_settings(rng: random.Random, vocabulary: int) -> dict[str, Any]:
    """Returns settings of a row that samples, any of them on or off, and sizes that reach into the vocabulary."""

    def some(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    choices: dict[str, Callable[[], Any]] = {
        "temperature": lambda: rng.choice([0.3, 0.7, 1.5, 1e-30]),
        "top_k": lambda: rng.choice([1, 3, 50, vocabulary // 3, vocabulary - 1, vocabulary, 2 * vocabulary]),
        "top_p": lambda: rng.choice([0.001, 0.5, 0.9, 0.999, 1 - 1e-16]),
        "min_p": lambda: rng.choice([1e-300, 1e-6, 0.05, 0.5, 1.0]),
        "typical_p": lambda: rng.choice([1e-300, 0.2, 0.9, 1 - 1e-16]),
        "epsilon_cutoff": lambda: rng.choice([1e-300, 1e-5, 1e-3, 0.3, 1 - 1e-16]),
        "repetition_penalty": lambda: rng.choice([0.5, 1.2]),
        "frequency_penalty": lambda: rng.choice([-0.5, 0.7]),
        "presence_penalty": lambda: rng.choice([-1.0, 1.1]),
        "no_repeat_ngram_size": lambda: rng.choice([1, 2]),
        "exponential_decay": lambda: (1, 1.3),
        "min_new_tokens": lambda: 50,
        "logit_bias": lambda: tuple((token, rng.uniform(-9, 9)) for token in set(some(20))),
        "allowed_token_ids": lambda: frozenset(some(max(2, vocabulary // 2))),
        "suppress_tokens": lambda: frozenset(some(max(2, vocabulary // 3))),
        "bad_words_ids": lambda: ((some(1)[0],), tuple(some(2))),
    }
    used = {name: make() for name, make in choices.items() if rng.random() < 0.25}
    used["logprobs"] = rng.random() < 0.3
    used["top_logprobs"] = rng.choice([0, 1, 5, min(100, vocabulary)])
    return used


def random_logits(rng: random.Random, rows: int, vocabulary: int) -> Tensor:
    """Returns finite logits: flat, peaked, extreme, or with many ties."""
    generator = torch.Generator().manual_seed(rng.randrange(10**6))
    logits = torch.randn(rows, vocabulary, generator=generator) * rng.choice([0.0, 1.0, 3.0, 30.0, 1e30])
    return (logits * 2).round() / 2 if rng.random() < 0.4 else logits


def random_batch(rng: random.Random, vocabulary: int, seeds: int) -> tuple[Tensor, list[Sequence]]:
    """Returns a row with random settings, as often as there are seeds."""
    parameters = SamplingParameters(
        99,
        do_sample=rng.random() < 0.9,
        seed=rng.randrange(2**62),
        eos_token_ids=frozenset({rng.randrange(vocabulary)}),
        **random_settings(rng, vocabulary),
    )
    text = [rng.randrange(vocabulary) for _ in range(40)]
    row = Sequence(0, text[:20], parameters, output=text[20:])
    return random_logits(rng, 1, vocabulary).repeat(seeds, 1), with_seeds(row, seeds)
