"""Measures how far from exact arithmetic a runner's logits are: teacher-forced, in an engine where much happens."""

import random
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.worker.parity import EOS_TOKEN_IDS, Events, Recorder, engine_for, mixed_sequences, run_with_random_arrivals
from worker.domain.sequence import Sequence
from worker.memory.storage import Storage
from worker.runners.runner import Runner

REQUESTS = 14
SEED = 2
FIRST_TOKEN = max(EOS_TOKEN_IDS) + 1
"""Forced tokens end nothing."""


@dataclass(frozen=True)
class Errors:
    """Differences from exact logits, as shares of the exact logits' root mean square."""

    mean: float
    """Root mean square over everything."""
    worst: float
    """The largest root mean square of one token's logits."""
    median: float
    """The root mean square of the token in the middle."""

    @classmethod
    def of(cls, ours: Tensor, exact: Tensor) -> "Errors":
        """Compares logits, [tokens, vocabulary]; NaN counts as infinite."""
        squares = (ours.double() - exact.double()).square().nan_to_num(nan=torch.inf, posinf=torch.inf)
        of_tokens = squares.mean(dim=1).sqrt() / exact.double().square().mean().sqrt()
        return cls(float(of_tokens.square().mean().sqrt()), float(of_tokens.max()), float(of_tokens.median()))

    def are_like(self, others: "Errors", *, choices: bool = False) -> bool:
        """Returns whether they are rounding errors like the others: hardly more in the mean, and nowhere by far.

        Where tokens choose experts, rounding takes one for the next now and then, in the model's own arithmetic as in
        ours, but for other tokens, and the rest of the row differs with it. There most tokens count, not each.
        """
        if choices:
            return self.median <= 1.3 * others.median and self.mean <= 4.0 * others.mean
        return self.mean <= 1.2 * others.mean and self.worst <= 1.5 * others.worst


@dataclass(frozen=True)
class Text:
    """A prompt and what follows it."""

    sequence: Sequence
    following: list[int]

    def logits(self, model: Any) -> Tensor:
        """Returns what a model predicts for the following tokens in one forward pass, [tokens, vocabulary]."""
        prompt = self.sequence.prompt
        with torch.inference_mode():
            logits: Tensor = model(torch.tensor([prompt + self.following]), use_cache=False).logits[0]
        return logits[len(prompt) - 1 : -1]

    def filled(self, recorded: list[Tensor]) -> Tensor:
        """Returns logits, [tokens, vocabulary], with NaN for tokens that were not written."""
        missing = [torch.full_like(recorded[0], torch.nan)] * (len(self.following) - len(recorded))
        return torch.stack(recorded + missing)


def texts(vocab_size: int) -> list[Text]:
    """Returns random prompts with random tokens to follow them."""
    rng = random.Random(SEED)
    sequences = mixed_sequences(REQUESTS, SEED, vocab_size=vocab_size)
    return [
        Text(each, [rng.randrange(FIRST_TOKEN, vocab_size) for _ in range(each.parameters.max_new_tokens)])
        for each in sequences
    ]


def run(model: Any, runner: Runner, given: Rows[Text]) -> tuple[Tensor, Events]:
    """Lets an engine write the texts. Returns the logits of all, [tokens, vocabulary], and what happened.

    The logits of tokens that were not written, because a text ended in NaN, are NaN.
    """
    recorder = Recorder(forced={text.sequence.sequence_id: text.following for text in given})
    engine = engine_for(model, recorder)
    engine.runner = runner
    if not runner.reads_padding:
        spoil(engine.batch.slab.storage, engine._group_storage)
    events = run_with_random_arrivals(engine, [text.sequence for text in given], SEED)
    return torch.cat([text.filled(recorder.logits[text.sequence.sequence_id]) for text in given]), events


def spoil(*storages: Storage) -> None:
    """Fills memory with NaN: whoever reads what nobody wrote is found out."""
    for storage in storages:
        for tokens in (layer.tokens for layer in storage.layers if layer.tokens):
            tokens.keys.fill_(torch.nan)
            tokens.values.fill_(torch.nan)


def errors(model: Any, runner: Runner, exact: Any) -> Errors:
    """Returns how far a runner's logits are from those of a model that computes exactly."""
    given = texts(model.config.vocab_size)
    logits, _ = run(model, runner, given)
    return Errors.of(logits, all_logits(exact, given))


def all_logits(model: Any, given: Rows[Text]) -> Tensor:
    """Returns what a model itself predicts, text by text, [tokens, vocabulary]."""
    return torch.cat([text.logits(model) for text in given])


def own_errors(model: Any, exact: Any) -> Errors:
    """Returns how far transformers' own forward pass is from exact: the measure for a runner."""
    given = texts(model.config.vocab_size)
    return Errors.of(all_logits(model, given), all_logits(exact, given))
