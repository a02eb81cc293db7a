"""How fast the workers are, as learned from what they did, and how long something new will wait. Pure.

Estimates are on the low side, because calls are refused by them: what has not been measured counts as nothing, and
nothing is extrapolated to prompts longer than those that were seen. And prefills are soon forgotten: what is refused by
them can't show that they have become faster.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backlog import Backlog

MIN_RETRY_S = 0.05
MAX_RETRY_S = 30.0
UNKNOWN_RETRY_S = 1.0
# Some ends come together, in one step of a worker: these are many more.
_DRAIN_WINDOW = 128
_LEAST_ENDS = 8
_PREFILL_WINDOW = 16
_LEAST_PREFILLS = 3
# For so long what was seen of prefills holds: in seconds, or as many times as one takes if that is longer.
_PREFILL_HOLDS_S = 10.0
_PREFILL_HOLDS_TIMES = 4
_DECODE_WINDOW = 32


class Ratio:
    """A ratio of two sums over what was observed last, older observations counting ever less.

    Args:
        window: About how many observations count.
        least: How many there must be before there is a ratio.
    """

    def __init__(self, window: int, least: int = 1) -> None:
        self._keep = 1 - 1 / window
        self._missing = least
        self._over = self._under = 0.0

    def observe(self, over: float, under: float) -> None:
        """Adds to both sums; neither value is below 0."""
        self._missing -= 1
        self._over = self._over * self._keep + over
        self._under = self._under * self._keep + under

    @property
    def value(self) -> float | None:
        """The ratio; None while there are too few observations, or nothing to divide by."""
        return None if self._missing > 0 or self._under <= 0 else self._over / self._under


class Speed:
    """The speed of all workers together, as one gateway sees it. Times are in seconds."""

    def __init__(self) -> None:
        self._prefills: dict[int, _Prefill] = {}
        """By the binary magnitude of the prompt's length: within one, time is taken to be proportional to length."""
        self._drain = Ratio(_DRAIN_WINDOW, _LEAST_ENDS)
        self._busy_since: float | None = None
        self._last_end = 0.0
        self._step = Ratio(_DECODE_WINDOW)

    @property
    def step_s(self) -> float:
        """The time between two tokens of one row; 0 while it is unknown."""
        return self._step.value or 0.0

    def observe_prefill(self, prompt_tokens: int, seconds: float, now: float) -> None:
        """A prompt of so many tokens, at least 1, was read in so much time."""
        magnitude = prompt_tokens.bit_length()
        known = self._prefills.get(magnitude)
        if known is None or not known.holds(now):
            known = self._prefills[magnitude] = _Prefill()
        known.observe(prompt_tokens, seconds, now)

    def observe_decode(self, token_count: int, seconds: float) -> None:
        """So many tokens of one row, at least 1, followed a first one within so much time."""
        self._step.observe(seconds, token_count)

    def observe_end(self, now: float, *, has_waiting: bool) -> None:
        """A generation left its worker, and something waited for its room, or nothing did.

        Only the time between two ends for which something waited tells how fast work is done: between them every row is
        taken. Any other tells how fast it comes.
        """
        if not has_waiting:
            self._busy_since = None
            return
        if self._busy_since is None:
            self._busy_since = now
        elif now > self._busy_since:  # what ended together with the first one took no time of this period
            self._drain.observe(1.0, now - self._last_end)
        self._last_end = now

    def observe_loss(self) -> None:
        """A worker was lost: until the next end, what waited may have waited for none to be there."""
        self._busy_since = None

    def prefill_s(self, prompt_tokens: int, now: float) -> float | None:
        """How long it takes to read a prompt; None while nothing is known of prompts of its length or shorter ones."""
        magnitude = prompt_tokens.bit_length()
        known = [each for each, prefill in self._prefills.items() if each <= magnitude and prefill.is_known(now)]
        if not known:
            return None
        nearest = max(known)
        return self._prefills[nearest].estimate_s(prompt_tokens if nearest == magnitude else None)

    def drain_s(self, backlog: Backlog) -> float | None:
        """How long it takes until a backlog is with the workers; None while that is unknown."""
        if not backlog.generation_count:
            return 0.0
        per_second = self._drain.value
        return None if per_second is None else backlog.generation_count / per_second

    def wait_s(self, backlog: Backlog, prompt_tokens: int, now: float) -> float | None:
        """How long a new generation will wait for its first token, at least, behind a backlog; None if unknown."""
        parts = (self.drain_s(backlog), self.prefill_s(prompt_tokens, now))
        known = [part for part in parts if part is not None]
        return sum(known) if known else None

    def retry_after_s(self, backlog: Backlog) -> float:
        """When a caller that was refused behind a backlog had better come again: once that is worked off.

        Whole milliseconds, from MIN_RETRY_S to MAX_RETRY_S. There is no jitter: callers are refused at times of their
        own, and their libraries add theirs.
        """
        seconds = self.drain_s(backlog)
        if seconds is None:
            return UNKNOWN_RETRY_S
        return min(max(math.ceil(seconds * 1000) / 1000, MIN_RETRY_S), MAX_RETRY_S)


class _Prefill:
    """What is known of prompts of one magnitude."""

    def __init__(self) -> None:
        self._per_token = Ratio(_PREFILL_WINDOW, _LEAST_PREFILLS)
        self._per_prompt = Ratio(_PREFILL_WINDOW, _LEAST_PREFILLS)
        self._seen_at = 0.0

    def observe(self, prompt_tokens: int, seconds: float, now: float) -> None:
        self._per_token.observe(seconds, prompt_tokens)
        self._per_prompt.observe(seconds, 1.0)
        self._seen_at = now

    def holds(self, now: float) -> bool:
        own_s = self._per_prompt.value or 0.0
        return now - self._seen_at <= max(_PREFILL_HOLDS_S, _PREFILL_HOLDS_TIMES * own_s)

    def is_known(self, now: float) -> bool:
        return self._per_token.value is not None and self.holds(now)

    def estimate_s(self, prompt_tokens: int | None) -> float | None:
        """For a prompt of this magnitude, or, with None, for any longer one: that takes as long at least."""
        if prompt_tokens is None:
            return self._per_prompt.value
        per_token = self._per_token.value
        return None if per_token is None else per_token * prompt_tokens
