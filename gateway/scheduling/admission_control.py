"""Refuses what would wait in vain, as early as that is known. Pure: time comes in as an argument, in seconds.

How long something new will wait is learned from what the workers did. Estimates are on the low side, because calls are
refused by them: what has not been measured counts as nothing, and nothing is extrapolated to prompts longer than those
that were seen. And prefills are soon forgotten: what is refused by them can't show that they have become faster.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from ..domain.errors import ServiceError, deadline_unreachable, queue_full, tenant_quota, wait_too_long
from ..domain.tenancy import Priority
from .queue import QueuedWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..domain.generation import Generation
    from ..domain.tenancy import Caller
    from .scheduler import Scheduler

MIN_ENDING_S = 0.05
"""An answer that is to be there before its deadline ends so long before, at least."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Most generations, and most tokens of their prompts, that may wait for a worker; each at least 1.

    Where nothing waits, a prompt is taken whatever its length: else it would be refused for ever.
    """

    max_queued: int
    max_queued_tokens: int
    max_tenant_queued: int
    max_tenant_queued_tokens: int

    def check(
        self,
        tenant: str,
        *,
        work: QueuedWork,
        tenant_work: QueuedWork,
        prompt_tokens: int,
        retry_after_s: Callable[[QueuedWork], float],
    ) -> None:
        """Raises what a new generation of a tenant is refused with.

        Args:
            tenant: Whose it is.
            work: All that waits.
            tenant_work: What waits of the tenant.
            prompt_tokens: The length of its prompt; 0 before it is known.
            retry_after_s: When to come again behind so much work, in seconds.

        Raises:
            ServiceError: QUEUE_FULL or TENANT_QUOTA.
        """

        def tenant_error(limit: int, unit: str) -> ServiceError:
            return tenant_quota(tenant, limit, retry_after_s(tenant_work), unit=unit)

        def queue_error(limit: int, unit: str) -> ServiceError:
            return queue_full(limit, retry_after_s(work), unit=unit)

        _check(work, prompt_tokens, self.max_queued, self.max_queued_tokens, queue_error)
        _check(tenant_work, prompt_tokens, self.max_tenant_queued, self.max_tenant_queued_tokens, tenant_error)


def _check(
    work: QueuedWork, prompt_tokens: int, limit: int, token_limit: int, error: Callable[[int, str], ServiceError]
) -> None:
    if work.generation_count >= limit:
        raise error(limit, "requests")
    if work.generation_count and work.prompt_tokens + prompt_tokens > token_limit:
        raise error(token_limit, "prompt tokens")


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a generation would take from now on, at least, in seconds; None where nothing is known."""

    queue_s: float | None
    first_token_s: float | None
    total_s: float | None


class AdmissionControl:
    """Stands before everything that waits, and watches how fast it is served.

    Args:
        scheduler: What waits.
        limits: How much of it may.
        estimator: Learns from what is observed here.
        max_wait_s: Longest wait in the queue that anything but batch work is let in for.
    """

    def __init__(
        self, scheduler: Scheduler, *, limits: QueueLimits, estimator: ThroughputEstimator, max_wait_s: float = inf
    ) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._max_wait_s = max_wait_s
        self._estimator = estimator
        self._preparing: dict[str, int] = {}
        """Calls that are about to wait, by tenant: those that have any."""
        self._preparing_count = 0

    @property
    def ending_s(self) -> float:
        """How long before its deadline a call is ended that is to be answered in time: the time of two steps."""
        return max(MIN_ENDING_S, 2 * self._estimator.step_s)

    @contextmanager
    def preparing(self, caller: Caller) -> Iterator[None]:
        """Counts a call among those that wait while it becomes a generation: long prompts take time and memory.

        Raises ServiceError if nothing more of a caller may wait: QUEUE_FULL or TENANT_QUOTA. It costs next to nothing.
        """
        self._check_limits(caller, 0)
        tenant = caller.tenant
        self._preparing[tenant] = self._preparing.get(tenant, 0) + 1
        self._preparing_count += 1
        try:
            yield
        finally:
            self._preparing_count -= 1
            if left := self._preparing.pop(tenant) - 1:
                self._preparing[tenant] = left

    def admit(self, generation: Generation, now: float) -> None:
        """Raises ServiceError if a new generation may not wait.

        As `preparing`, or DEADLINE_UNREACHABLE, or QUEUE_FULL if it would wait for too long; batch work may.
        """
        self._check_limits(generation.caller, len(generation.prompt_ids) + generation.output_token_count)
        before = self._scheduler.queue.work_before(generation.caller, generation.due)
        if generation.deadline_at is not None:
            wait_s = self._estimator.wait_s(before, len(generation.prompt_ids), now)
            remaining_s = generation.deadline_at - now
            if wait_s is not None and wait_s > remaining_s:
                raise deadline_unreachable(wait_s, remaining_s)
        queue_s = self._estimator.drain_s(before)
        if queue_s is not None and queue_s > self._max_wait_s and generation.caller.priority < Priority.BATCH:
            raise wait_too_long(queue_s, self._max_wait_s, self._estimator.retry_after_s(before))

    def estimate(self, generation: Generation, now: float) -> Estimate:
        """How long it would take if it were admitted now."""
        before = self._scheduler.queue.work_before(generation.caller, generation.due)
        queue_s = self._estimator.drain_s(before)
        prefill_s = self._estimator.prefill_s(len(generation.prompt_ids), now)
        first_s = None if queue_s is None or prefill_s is None else queue_s + prefill_s
        step_s, step_count = self._estimator.step_s, generation.config.max_new_tokens - 1
        total_s = None if first_s is None or (step_count and not step_s) else first_s + step_count * step_s
        return Estimate(queue_s, first_s, total_s)

    def observe_start(self, generation: Generation, prefill_s: float) -> None:
        """A generation has its first token, after a prefill of so many seconds."""
        read_at = generation.sequences[0].timeline.first_token_at
        # One that goes on behind its output has read that, too.
        if read_at is not None and not any(sequence.resumed for sequence in generation.sequences):
            self._estimator.observe_prefill(len(generation.prompt_ids), prefill_s, read_at)

    def observe_end(self, now: float) -> None:
        """A generation has left its worker, and nothing has taken its room yet."""
        self._estimator.observe_end(now, has_waiting=self._scheduler.work.generation_count > 0)

    def observe_loss(self) -> None:
        """A worker was lost."""
        self._estimator.observe_loss()

    def observe_answer(self, generation: Generation, now: float) -> None:
        """A call has ended, in whatever way. Beams say nothing of a step: all their tokens come with the last one."""
        if generation.config.num_beams > 1:
            return
        for sequence in generation.sequences:
            gap_count = sequence.output_token_count - 1
            # Between the tokens of one that was gone on with lies the time that it waited.
            if gap_count > 0 and not sequence.resumed:
                self._estimator.observe_decode(gap_count, sequence.timeline.timing(now).decode_s)

    def _check_limits(self, caller: Caller, prompt_tokens: int) -> None:
        tenant = caller.tenant
        work, tenant_work = self._scheduler.work, self._scheduler.queue.work_of(tenant)
        if self._preparing_count:
            work += QueuedWork(self._preparing_count)
            tenant_work += QueuedWork(self._preparing.get(tenant, 0))
        self._limits.check(
            tenant,
            work=work,
            tenant_work=tenant_work,
            prompt_tokens=prompt_tokens,
            retry_after_s=self._estimator.retry_after_s,
        )


class DecayedRatio:
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


class ThroughputEstimator:
    """The speed of all workers together, as one gateway sees it. Times are in seconds."""

    def __init__(self) -> None:
        self._prefills: dict[int, _Prefill] = {}
        """By the binary magnitude of the prompt's length: within one, time is taken to be proportional to length."""
        self._drain = DecayedRatio(_DRAIN_WINDOW, _LEAST_ENDS)
        self._busy_since: float | None = None
        self._last_end = 0.0
        self._step = DecayedRatio(_DECODE_WINDOW)

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

    def drain_s(self, before: QueuedWork) -> float | None:
        """How long it takes until so much work is with the workers; None while that is unknown."""
        if not before.generation_count:
            return 0.0
        per_second = self._drain.value
        return None if per_second is None else before.generation_count / per_second

    def wait_s(self, before: QueuedWork, prompt_tokens: int, now: float) -> float | None:
        """How long a new generation will wait for its first token, at least, behind so much work; None if unknown."""
        parts = (self.drain_s(before), self.prefill_s(prompt_tokens, now))
        known = [part for part in parts if part is not None]
        return sum(known) if known else None

    def retry_after_s(self, before: QueuedWork) -> float:
        """When a caller that was refused behind so much work had better come again: once that is worked off.

        Whole milliseconds, from MIN_RETRY_S to MAX_RETRY_S. There is no jitter: callers are refused at times of their
        own, and their libraries add theirs.
        """
        seconds = self.drain_s(before)
        if seconds is None:
            return UNKNOWN_RETRY_S
        return min(max(math.ceil(seconds * 1000) / 1000, MIN_RETRY_S), MAX_RETRY_S)


class _Prefill:
    """What is known of prompts of one magnitude."""

    def __init__(self) -> None:
        self._per_token = DecayedRatio(_PREFILL_WINDOW, _LEAST_PREFILLS)
        self._per_prompt = DecayedRatio(_PREFILL_WINDOW, _LEAST_PREFILLS)
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
