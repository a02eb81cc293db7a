"""Requests with random prompts, and serving them with the engine."""

import random
from collections.abc import Sequence

from bench.peer.protocol import Request
from bench.random_model import VOCAB_SIZE
from worker.domain.sequence import Root, SamplingParameters
from worker.domain.sequence import Sequence as Row
from worker.engine.engine import Engine


def mixed_set(count: int = 32) -> list[Request]:
    """Returns requests with prompts of 8 to 95 tokens and outputs of 8 to 63; the same on every call."""
    rng = random.Random(0)
    return [Request(random_prompt(rng, rng.randint(8, 95)), rng.randint(8, 63)) for _ in range(count)]


def skewed_set(*, long: int = 128, short: int = 16, rows: int = 16) -> list[Request]:
    """Returns one request with a long output and `rows` - 1 with short ones, all with prompts of 32 tokens."""
    rng = random.Random(1)
    return [Request(random_prompt(rng, 32), short if row else long) for row in range(rows)]


def random_prompt(rng: random.Random, length: int) -> list[int]:
    """Returns token ids, none of them the pad token."""
    return [rng.randrange(1, VOCAB_SIZE) for _ in range(length)]


def prompt_tokens(requests: Sequence[Request]) -> int:
    """Returns the tokens of all prompts, without padding."""
    return sum(len(request.prompt) for request in requests)


def useful_tokens(requests: Sequence[Request]) -> int:
    """Returns the tokens that were asked for."""
    return sum(request.output_count for request in requests)


def submit(engine: Engine, number: int, request: Request) -> Row:
    """Queues a request, greedy, under a number; returns its row."""
    row = Row(number, request.prompt, SamplingParameters(max_new_tokens=request.output_count))
    engine.scheduler.submit(Root(request.prompt, [row]))
    return row


def run_engine(engine: Engine, requests: Sequence[Request]) -> None:
    """Serves all requests with continuous batching."""
    for number, request in enumerate(requests):
        submit(engine, number, request)
    while engine.scheduler.has_work:
        engine.step()
