"""Refuses what would wait in vain, as early as that is known. Pure: time comes in as an argument, in seconds."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

from ..domain.errors import deadline_unreachable, wait_too_long
from ..domain.tenancy import Priority
from .backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..domain.generation import Generation
    from ..domain.tenancy import Caller
    from .bounds import Bounds
    from .estimate import Speed
    from .scheduler import Scheduler

MIN_ENDING_S = 0.05
"""An answer that is to be there before its deadline ends so long before, at least."""


class Gate:
    """Stands before everything that waits, and watches how fast it is served.

    Args:
        scheduler: What waits.
        bounds: How much of it may.
        speed: Learns from what the gate observes.
        max_wait_s: Longest wait in the queue that anything but batch work is let in for.
    """

    def __init__(self, scheduler: Scheduler, *, bounds: Bounds, speed: Speed, max_wait_s: float = inf) -> None:
        self._scheduler = scheduler
        self._bounds = bounds
        self._max_wait_s = max_wait_s
        self._speed = speed
        self._admitting: Counter[str] = Counter()
        """Calls that are about to wait, by tenant: those that have any."""

    @property
    def ending_s(self) -> float:
        """How long before its deadline a call is ended that is to be answered in time: the time of two steps."""
        return max(MIN_ENDING_S, 2 * self._speed.step_s)

    @contextmanager
    def admitting(self, caller: Caller) -> Iterator[None]:
        """Counts a call among those that wait while it becomes a generation: long prompts take time and memory.

        Raises ServiceError if nothing more of a caller may wait: QUEUE_FULL or TENANT_QUOTA. It costs next to nothing.
        """
        self._check_bounds(caller, 0)
        self._admitting[caller.tenant] += 1
        try:
            yield
        finally:
            self._admitting -= Counter((caller.tenant,))

    def check(self, generation: Generation, now: float) -> None:
        """Raises ServiceError if a new generation may not wait.

        As `admitting`, or DEADLINE_UNREACHABLE, or QUEUE_FULL if it would wait for too long; batch work may.
        """
        self._check_bounds(generation.caller, Backlog.of(generation).prompt_tokens)
        backlog = self._scheduler.backlog(generation.caller, generation.due)
        if generation.deadline_at is not None:
            wait_s = self._speed.wait_s(backlog, len(generation.prompt_ids), now)
            remaining_s = generation.deadline_at - now
            if wait_s is not None and wait_s > remaining_s:
                raise deadline_unreachable(wait_s, remaining_s)
        queue_s = self._speed.drain_s(backlog)
        if queue_s is not None and queue_s > self._max_wait_s and generation.caller.priority < Priority.BATCH:
            raise wait_too_long(queue_s, self._max_wait_s, self._speed.retry_after_s(backlog))

    def observe_start(self, generation: Generation, prefill_s: float) -> None:
        """A generation has its first token, after a prefill of so many seconds."""
        read_at = generation.sequences[0].timeline.first_token_at
        # One that goes on behind its output has read that, too.
        if read_at is not None and not any(sequence.resumed for sequence in generation.sequences):
            self._speed.observe_prefill(len(generation.prompt_ids), prefill_s, read_at)

    def observe_end(self, now: float) -> None:
        """A generation has left its worker, and nothing has taken its room yet."""
        self._speed.observe_end(now, has_waiting=self._scheduler.load.generation_count > 0)

    def observe_loss(self) -> None:
        """A worker was lost."""
        self._speed.observe_loss()

    def observe_answer(self, generation: Generation, now: float) -> None:
        """A call has ended, in whatever way. Beams say nothing of a step: all their tokens come with the last one."""
        if generation.config.num_beams > 1:
            return
        for sequence in generation.sequences:
            gap_count = sequence.output_token_count - 1
            # Between the tokens of one that was gone on with lies the time that it waited.
            if gap_count > 0 and not sequence.resumed:
                self._speed.observe_decode(gap_count, sequence.timeline.timing(now).decode_s)

    def _check_bounds(self, caller: Caller, prompt_tokens: int) -> None:
        tenant = caller.tenant
        self._bounds.check(
            tenant,
            load=self._scheduler.load + Backlog(self._admitting.total()),
            tenant_load=self._scheduler.tenant_load(tenant) + Backlog(self._admitting[tenant]),
            prompt_tokens=prompt_tokens,
            retry_after_s=self._speed.retry_after_s,
        )
