"""Callers that record what they ask and what they get, and that may leave early, read slowly, or have little time."""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from client import AsyncClient, AsyncStream, Delta, TextserveError
from tests.chaos.events import Asked, Delivered, Ended, Event, Left
from tests.chaos.history import History
from tests.chaos.recorder import Recorder, now
from tests.chaos.rules import Tokens, failures

PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One call."""

    seed: int
    """Names the request; the run's own."""
    prompt: Tokens
    max_new_tokens: int
    leave_after: int | None = None
    """Cancels behind so many tokens; None: never."""
    timeout_s: float = PATIENCE_S
    pause_s: float = 0.0
    """Between one delta and the next."""
    temperature: float = 1.0

    @property
    def may_fail(self) -> bool:
        """Whether it has so little time that it may not reach its end."""
        return self.timeout_s < PATIENCE_S


def plain(
    first_seed: int, count: int, prompts: Iterable[Tokens], max_new_tokens: int, temperature: float = 1.0
) -> list[Ask]:
    """Calls that stay to the end."""
    texts = tuple(prompts)
    return [
        Ask(seed, texts[seed % len(texts)], max_new_tokens, temperature=temperature)
        for seed in range(first_seed, first_seed + count)
    ]


def mixed(seed: int, first_seed: int, count: int, prompts: Iterable[Tokens], most_tokens: int) -> list[Ask]:
    """Calls of all kinds, which follow from `seed`."""
    chance, texts = random.Random(seed), tuple(prompts)
    return [_mixed(chance, first_seed + number, texts, most_tokens) for number in range(count)]


def _mixed(chance: random.Random, seed: int, prompts: tuple[Tokens, ...], most_tokens: int) -> Ask:
    tokens = chance.randint(1, most_tokens)
    kind = chance.random()
    return Ask(
        seed,
        chance.choice(prompts),
        tokens,
        leave_after=chance.randint(0, tokens - 1) if kind < 0.2 else None,
        timeout_s=chance.uniform(0.05, 2.0) if 0.2 <= kind < 0.3 else PATIENCE_S,
        pause_s=0.05 if 0.3 <= kind < 0.4 else 0.0,
    )


def wrong_ends(asks: Iterable[Ask], events: Iterable[Event]) -> list[str]:
    """The calls that ended otherwise than they may; one without much time may come to the end of it."""
    asked = {ask.seed: ask for ask in asks}

    def is_right(end: Ended) -> bool:
        ask = asked[end.request]
        if end.outcome == "cancelled":
            return ask.leave_after is not None
        return end.outcome == "length" or (ask.may_fail and end.outcome.startswith("DEADLINE_EXCEEDED"))

    return failures(History(events), is_right)


Heard = Callable[[Delta], None]


async def call(client: AsyncClient, ask: Ask, record: Recorder | None, heard: Heard = lambda _: None) -> Tokens:
    """Makes one call to its end, whatever that is, and returns the tokens that it got."""
    tell = record or (lambda _: None)
    tell(Asked(now(), ask.seed, ask.prompt))
    got: list[int] = []
    stream = client.stream(
        list(ask.prompt), max_new_tokens=ask.max_new_tokens, seed=ask.seed, temperature=ask.temperature,
        token_ids=True,
        ignore_eos=True, timeout=ask.timeout_s,
    )  # fmt: skip
    try:
        async with stream:
            outcome = await _read(stream, ask, got, tell, heard)
    except TextserveError as error:
        outcome = Ended(now(), ask.seed, f"{error.code.name}/{error.reason}")
    tell(outcome)
    return tuple(got)


async def _read(
    stream: AsyncStream,
    ask: Ask,
    got: list[int],
    tell: Callable[[Asked | Delivered | Left | Ended], None],
    heard: Heard,
) -> Ended:
    if ask.leave_after == 0:
        return _leave(ask, tell)
    async for delta in stream:
        got += delta.token_ids
        tell(Delivered(now(), ask.seed, delta.token_ids, delta.text))
        heard(delta)
        if ask.leave_after is not None and len(got) >= ask.leave_after:
            return _leave(ask, tell)
        await asyncio.sleep(ask.pause_s)
    result = stream.result
    count, attempts = result.usage.output_token_count, result.attempt_count
    return Ended(now(), ask.seed, str(result.finish_reason), count, attempts)


def _leave(ask: Ask, tell: Callable[[Left], None]) -> Ended:
    tell(Left(now(), ask.seed))
    return Ended(now(), ask.seed, "cancelled")
