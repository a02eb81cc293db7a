"""A model of a few lines whose next token depends on every token before it and on each one's position.

It keeps its "attention" in the cache that it is given, so that a wrong mask, position, row or column shows as a wrong
token; and it can be told to go wrong.
"""

import math
import threading
from collections.abc import Callable, Collection
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worker.domain.sequence import Root, SamplingParameters, Sequence
from worker.engine.engine import Engine, Memory
from worker.memory.layout import Layout, TokenShape
from worker.runners.model_runner import ModelRunner
from worker.scheduling.scheduler import Limits, Scheduler

VOCAB_SIZE = 96
POISON = 95
"""A sequence with this token gets NaN, in its logits and in the cache, once it is POISON_LENGTH tokens long."""
POISON_LENGTH = 6
EXPLOSIVE = 94
"""A forward pass over this token raises."""
LAYOUT = Layout(TokenShape(1, 1, 1, 1, dtype=torch.float32, device=torch.device("cpu")))
LIMITS = Limits(
    max_rows=4, context_length=64, pool_tokens=4 * 96, group_tokens=64, chunk_tokens=8, idle_chunk_tokens=16
)


class ModelError(Exception):
    """What the fake raises on an EXPLOSIVE token."""


@dataclass
class Output:
    """The part of a model's output that is used."""

    logits: Tensor


@dataclass
class FakeModel:
    """Next token = a hash of the sum over tokens of token times (position + 1)."""

    before: Callable[[], None] = lambda: None
    """Runs before each pass."""
    memory: float = math.inf
    """Most tokens of one pass: more are an allocation that fails."""
    most_rows: float = math.inf
    """Most rows of one pass: more raise."""

    def __call__(self, **inputs: Any) -> Output:
        self.before()
        input_ids: Tensor = inputs["input_ids"]
        if (input_ids == EXPLOSIVE).any() or len(input_ids) > self.most_rows:
            raise ModelError("asked for")
        if input_ids.numel() > self.memory:
            raise torch.OutOfMemoryError("asked for")
        tokens = input_ids.float()[:, None, :, None]
        weighed = tokens * (inputs["position_ids"] + 1)[:, None, :, None]
        keys, values = inputs["past_key_values"].update(weighed, tokens, 0)
        mask: Tensor = inputs["attention_mask"]
        poisoned = ((values[:, 0, :, 0] == POISON) & (mask == 1)).any(dim=-1) & (mask.sum(dim=-1) >= POISON_LENGTH)
        keys[poisoned, :, -1] = torch.nan
        kept = inputs["logits_to_keep"] or input_ids.shape[1]
        totals = (keys[:, 0, :, 0] * mask).cumsum(dim=-1)[:, -kept:]
        logits = one_hot(hashed(totals.nan_to_num().long()), VOCAB_SIZE).float()
        logits[totals.isnan()] = torch.nan
        return Output(logits)


def hashed(total: Any) -> Any:
    """Returns a token from 3 to 92, for a number or a tensor of numbers."""
    return 3 + (total * 31 + 7) % 90


def expected(prompt: Ids[int], count: int, eos: Collection[int] = ()) -> list[int]:
    """Returns the first `count` tokens that the model writes after a prompt, up to an end of sequence."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count and not (len(tokens) > len(prompt) and tokens[-1] in eos):
        tokens.append(hashed(sum(token * (position + 1) for position, token in enumerate(tokens))))
    return tokens[len(prompt) :]


def frozen() -> float:
    """Returns the time on a stopped clock, from which an engine learns nothing: every run takes the same steps."""
    return 0.0


def fake_engine(model: FakeModel | None = None, *, limits: Limits = LIMITS) -> Engine:
    """Returns an engine over the fake model."""
    device = torch.device("cpu")
    runner = ModelRunner(model or FakeModel(), device=device)
    return Engine(runner, Scheduler(limits), Memory([LAYOUT], device, pad_token_id=0), clock=frozen)


def sequence(
    number: int, prompt: list[int], max_new_tokens: int, *, owner: int = 0, eos: Collection[int] = (), **changes: Any
) -> Sequence:
    """Returns a greedy sequence."""
    parameters = SamplingParameters(max_new_tokens, eos_token_ids=frozenset(eos), **changes)
    return Sequence(number, prompt, parameters, owner=owner, arrived_at=number)


def root(*sequences: Sequence) -> Root:
    """Returns the root of sequences that share a prompt."""
    return Root(sequences[0].prompt + sequences[0].output, list(sequences))


class Gate:
    """Holds the engine's thread before each forward pass until the test lets it through."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived = 0
        self._allowed = 0.0

    def __call__(self) -> None:
        with self._changed:
            self._arrived += 1
            self._changed.notify_all()
            mine = self._arrived
            assert self._changed.wait_for(lambda: mine <= self._allowed, timeout=300), "nobody opened the gate"

    def allow(self, passes: float) -> None:
        """Lets through `passes` more forward passes; infinity opens the gate for good."""
        with self._changed:
            self._allowed += passes
            self._changed.notify_all()

    def wait_until_held(self) -> None:
        """Waits until the engine stands at the gate."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrived > self._allowed, timeout=300), "nobody came"
