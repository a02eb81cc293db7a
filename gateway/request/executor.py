"""Threads for what takes too long for the event loop: bounded, and in the order of priority and of tenants' turns.

Three kinds, so that nothing waits behind what takes a thousand times as long: short prompts, long ones, and answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from ..domain.errors import deadline_exceeded, queue_full, tenant_quota
from ..domain.generation import HORIZON_S
from ..domain.tenancy import Caller, Priority, TenantPolicy
from ..scheduling.admission_control import MAX_RETRY_S, MIN_RETRY_S, UNKNOWN_RETRY_S
from ..scheduling.queue import Ageing, PriorityClass

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from ..domain.request import Call

T = TypeVar("T")

INLINE_CHARS = 4096
"""Work up to this is done on the event loop: it takes less time than a change of threads is worth."""
SHORT_CHARS = 64 * 1024
"""Work up to this is short: a tenth of a second."""
CHAR_BYTES = 280
"""Memory that tokenizing takes for each character, for a while. 4 MB of text took 126 to 279 bytes each."""
MEMORY_BYTES = 1 << 30
"""Memory that long prompts may take at once while they are tokenized; one that needs more is alone."""
MAX_WAITING_CHARS = 32 << 20
"""Long work that may wait, in characters: half a minute to a minute of it."""
TENANT_SHARE = 4
"""One tenant may have so much less waiting, where tenants are told apart: a quarter, as with requests."""
MAX_LONG_THREADS = 4


@dataclass(slots=True, eq=False)
class _Job:
    """Work that waits for a thread, or runs on one."""

    call: Call
    number: int
    chars: int
    work: Callable[[], Any]
    done: asyncio.Future[Any]
    begun_at: float = 0.0
    attempts: int = field(default=0, init=False)

    @property
    def caller(self) -> Caller:
        return self.call.caller

    @property
    def arrived_at(self) -> float:
        return self.call.arrived_at

    @property
    def due(self) -> float:
        return min(self.call.deadline_at, self.call.arrived_at + HORIZON_S)


class Executor:
    """The threads of one kind of work, and what waits for them.

    Work is a plain function. It must not touch what the event loop owns. What has begun goes on to its end even if its
    caller leaves, and is in the account until then.

    Args:
        policy: The weights of the tenants.
        name: What its threads are called.
        threads: How many there are.
        clock: Seconds of a monotonic clock.
        memory_bytes: Memory that the work of all threads may take at once; work that needs more runs alone.
        max_waiting_chars: Work that may wait; what exceeds it waits only if nothing else does.
        phase: What the request is in meanwhile.
    """

    def __init__(
        self,
        policy: TenantPolicy,
        *,
        name: str,
        threads: int,
        clock: Callable[[], float],
        memory_bytes: float = inf,
        max_waiting_chars: float = inf,
        phase: str = "admission",
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._thread_count = threads
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._max_waiting_chars = max_waiting_chars
        self._phase = phase
        self._max_tenant_chars = max_waiting_chars / (TENANT_SHARE if policy.trusted else 1)
        self._classes: list[PriorityClass[_Job]] = [PriorityClass(policy) for _ in Priority]
        self._ageing = Ageing(self._classes)
        self._running: set[_Job] = set()
        self._waiting_chars: dict[str, int] = {}
        self._job_count = 0
        self._char_s: float | None = None
        """Time that work takes a thread for each character, in seconds."""

    @property
    def waiting_count(self) -> int:
        """Work that waits for a thread."""
        return sum(map(len, self._classes))

    @property
    def running_count(self) -> int:
        """Work that is on a thread."""
        return len(self._running)

    @property
    def reserved_bytes(self) -> int:
        """Memory that what runs may take."""
        return sum(_memory(job) for job in self._running)

    async def run(self, work: Callable[[], T], call: Call, chars: int) -> T:
        """The result of `work`, done on a thread in the turn of its caller.

        Args:
            work: What to do.
            call: For whom. What has not ended at its deadline is given up.
            chars: How much it is, in characters of a prompt that take as long to tokenize.

        Raises:
            ServiceError: QUEUE_FULL or TENANT_QUOTA where too much waits, REQUEST_TIMEOUT at the deadline.
        """
        self._check(call.caller.tenant, chars)
        loop = asyncio.get_running_loop()
        self._job_count += 1
        job = _Job(call, self._job_count, chars, work, loop.create_future())
        self._add(job)
        self._start()
        timer = loop.call_later(max(0.0, call.deadline_at - self._clock()), self._expire, job)
        try:
            return await job.done  # type: ignore[no-any-return]
        finally:
            timer.cancel()
            self._leave(job)

    def close(self) -> None:
        """Begins nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, tenant: str, chars: int) -> None:
        total, own = sum(self._waiting_chars.values()), self._waiting_chars.get(tenant, 0)
        unit = "characters of work on prompts"
        if total and total + chars > self._max_waiting_chars:
            raise queue_full(int(self._max_waiting_chars), self._retry_after_s(total), unit=unit)
        if own and own + chars > self._max_tenant_chars:
            raise tenant_quota(tenant, int(self._max_tenant_chars), self._retry_after_s(own), unit=unit)

    def _retry_after_s(self, chars: int) -> float:
        if self._char_s is None:
            return UNKNOWN_RETRY_S
        return min(max(round(chars * self._char_s / self._thread_count, 3), MIN_RETRY_S), MAX_RETRY_S)

    def _add(self, job: _Job) -> None:
        self._classes[job.caller.priority].add(job)
        tenant = job.caller.tenant
        self._waiting_chars[tenant] = self._waiting_chars.get(tenant, 0) + job.chars

    def _remove(self, job: _Job) -> bool:
        """Lets it wait no more. False if it did not."""
        if not self._classes[job.caller.priority].remove(job):
            return False
        tenant = job.caller.tenant
        self._waiting_chars[tenant] -= job.chars
        if not self._waiting_chars[tenant]:
            del self._waiting_chars[tenant]
        return True

    def _leave(self, job: _Job) -> None:
        if self._remove(job):
            # It may have been in the way of what needs less memory.
            self._start()

    def _start(self) -> None:
        """Begins what is next, as long as there are threads and memory for it."""
        while len(self._running) < self._thread_count:
            turn = self._ageing.turn(self._clock())
            next_class = turn or next((each for each in self._classes if len(each)), None)
            job = next_class.head if next_class else None
            if next_class is None or job is None:
                return
            if self._running and self.reserved_bytes + _memory(job) > self._memory_bytes:
                return
            self._ageing.sent(job.caller.priority, self._clock(), by_turn=next_class is turn)
            next_class.charge(job.caller.tenant, job.chars)
            self._remove(job)
            self._begin(job)

    def _begin(self, job: _Job) -> None:
        loop = asyncio.get_running_loop()

        def end(future: Future[Any]) -> None:
            # Whoever stops the gateway does not wait for what nobody waits for.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end, job, future)

        self._running.add(job)
        job.begun_at = self._clock()
        self._pool.submit(job.work).add_done_callback(end)

    def _end(self, job: _Job, future: Future[Any]) -> None:
        self._running.discard(job)
        if job.chars >= SHORT_CHARS:
            char_s = (self._clock() - job.begun_at) / job.chars
            self._char_s = char_s if self._char_s is None else (self._char_s + char_s) / 2
        self._start()
        if job.done.done():
            return
        if future.cancelled():
            job.done.cancel()
        elif (error := future.exception()) is not None:
            job.done.set_exception(error)
        else:
            job.done.set_result(future.result())

    def _expire(self, job: _Job) -> None:
        if not job.done.done():
            limit_s = job.call.deadline_at - job.call.arrived_at
            job.done.set_exception(deadline_exceeded(limit_s, self._phase))


class Executors:
    """All threads for requests.

    Args:
        policy: The weights of the tenants.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, policy: TenantPolicy, clock: Callable[[], float]) -> None:
        threads = max(1, min(MAX_LONG_THREADS, (os.cpu_count() or 1) - 1))
        self._short = Executor(policy, name="short-prompts", threads=2, clock=clock)
        self._long = Executor(
            policy,
            name="long-prompts",
            threads=threads,
            clock=clock,
            memory_bytes=MEMORY_BYTES,
            max_waiting_chars=MAX_WAITING_CHARS,
        )
        self._answers = Executor(policy, name="answers", threads=1, clock=clock, phase="delivery")

    async def prepare(self, work: Callable[[], T], call: Call, chars: int) -> T:
        """What is made of a request; see `Executor.run`."""
        executor = self._short if chars <= SHORT_CHARS else self._long
        return await executor.run(work, call, chars)

    async def answer(self, work: Callable[[], T], call: Call, chars: int) -> T:
        """What is made of a generation that has ended; see `Executor.run`. It is never refused."""
        return await self._answers.run(work, call, chars)

    def close(self) -> None:
        """Begins nothing more."""
        for executor in (self._short, self._long, self._answers):
            executor.close()


def _memory(job: _Job) -> int:
    return CHAR_BYTES * job.chars
