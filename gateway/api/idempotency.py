"""Calls of one name generate once: a second one joins the first, or gets its answer for a short while.

Best effort, and for this gateway alone: a caller that lost its connection, and asks again, is not generated for twice.
Nothing rests on it.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from textserve.v1 import generation_pb2 as pb

from ..domain.errors import Code, ServiceError, invalid_request, out_of_range, request_id_taken
from ..domain.request import Call
from ..request.executor import INLINE_CHARS, Executors
from .codec import work_chars

OVERHEAD_BYTES = 512
"""Of an entry, beside its key and its answer."""


@dataclass(frozen=True, slots=True)
class CallKey:
    """What a caller names a call by."""

    tenant: str
    request_id: str

    @property
    def size_bytes(self) -> int:
        return len(self.tenant.encode()) + len(self.request_id.encode())


@dataclass(frozen=True, slots=True)
class RecentAnswer:
    """An answer, the hash of the request that it is for, and when it is forgotten."""

    digest: bytes
    answer: bytes
    forgotten_at: float


class RecentAnswers:
    """Keeps answers for a while, the newest first if there is not room for all.

    Args:
        window_s: How long an answer is kept, in seconds.
        limit_bytes: Most bytes of all that is kept.
    """

    def __init__(self, *, window_s: float, limit_bytes: int) -> None:
        self._window_s = window_s
        self._limit_bytes = limit_bytes
        self._answers: OrderedDict[CallKey, RecentAnswer] = OrderedDict()
        self.size_bytes = 0
        """Bytes of all that is kept, never above the limit."""

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: CallKey, now: float) -> RecentAnswer | None:
        """The answer to the call of this name, None if it is not kept."""
        self._forget(now)
        return self._answers.get(key)

    def put(self, key: CallKey, digest: bytes, answer: bytes, now: float) -> None:
        """Keeps an answer, in the place of an older one of this name. One that is larger than the limit is not kept."""
        self._drop(key)
        self._forget(now)
        kept = RecentAnswer(digest, answer, now + self._window_s)
        size = _kept_bytes(key, kept)
        if size > self._limit_bytes:
            return
        while self.size_bytes + size > self._limit_bytes:
            self._drop(next(iter(self._answers)))
        self._answers[key] = kept
        self.size_bytes += size

    def _forget(self, now: float) -> None:
        while self._answers and next(iter(self._answers.values())).forgotten_at <= now:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: CallKey) -> None:
        if (dropped := self._answers.pop(key, None)) is not None:
            self.size_bytes -= _kept_bytes(key, dropped)


def _kept_bytes(key: CallKey, kept: RecentAnswer) -> int:
    return key.size_bytes + len(kept.digest) + len(kept.answer) + OVERHEAD_BYTES


WINDOW_S = 60.0
LIMIT_BYTES = 32 << 20
MAX_REQUEST_ID_BYTES = 128

MAX_JOINS = 3
"""Whoever has joined so many calls that had less time than it is served by itself: each end wakes all that wait."""

Response = pb.GenerateResponse | bytes
"""An answer, or its bytes if it is large: those are made on a thread, and not again for whoever shares it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call has come to."""

    response: Response
    is_cut: bool = False
    """Whether a deadline ended it before its time: that was the deadline of one call, and is none of the others'."""


Work = Callable[[], Coroutine[Any, Any, Answer]]


@dataclass(slots=True, eq=False)
class _Call:
    """A call that runs, and how many wait for it."""

    digest: bytes
    task: asyncio.Task[Answer]
    waiter_count: int = 0


class Deduplication:
    """Runs calls that have names. What fails is not kept: who asks again after a failure is served anew.

    What a deadline has ended, in a failure or with what there was, is for the call alone that had this deadline.

    Args:
        clock: Seconds of a monotonic clock.
        executors: The threads that large requests are worked on.
        window_s: How long an answer is kept, in seconds.
        limit_bytes: Most bytes of all answers that are kept.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        executors: Executors,
        *,
        window_s: float = WINDOW_S,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._clock = clock
        self._executors = executors
        self._recent = RecentAnswers(window_s=window_s, limit_bytes=limit_bytes)
        self._running: dict[CallKey, _Call] = {}

    async def run(self, call: Call, request: pb.GenerateRequest, work: Work) -> Response:
        """The answer to `request`: that of `work`, unless a call of its tenant with its request_id has made it.

        `work` runs in a task of its own. It is cancelled when the last of those that wait for it is.

        Raises ServiceError if the request_id is too long or another request has it, and what `work` raises.
        """
        if not request.request_id:
            return (await work()).response
        key = _key(call.caller.tenant, request)
        digest = await self._digest(call, request)
        for _ in range(MAX_JOINS):
            if (kept := self._recent.get(key, self._clock())) is not None:
                _check_same(request, kept.digest, digest)
                return kept.answer
            if (running := self._running.get(key)) is None:
                return (await self._wait(key, self._start(key, digest, work))).response
            _check_same(request, running.digest, digest)
            try:
                answer = await self._wait(key, running)
            except ServiceError as error:
                if error.code is not Code.DEADLINE_EXCEEDED:
                    raise
            else:
                if not answer.is_cut:
                    return answer.response
        return (await work()).response

    async def _digest(self, call: Call, request: pb.GenerateRequest) -> bytes:
        chars = work_chars(request)
        if chars <= INLINE_CHARS:
            return _digest(request)
        return await self._executors.prepare(lambda: _digest(request), call, chars)

    def _start(self, key: CallKey, digest: bytes, work: Work) -> _Call:
        call = self._running[key] = _Call(digest, asyncio.create_task(self._work(key, digest, work)))
        return call

    async def _work(self, key: CallKey, digest: bytes, work: Work) -> Answer:
        try:
            answer = await work()
        finally:
            self._leave(key, asyncio.current_task())
        if not answer.is_cut:
            response = answer.response
            kept = response if isinstance(response, bytes) else response.SerializeToString()
            self._recent.put(key, digest, kept, self._clock())
        return answer

    async def _wait(self, key: CallKey, call: _Call) -> Answer:
        call.waiter_count += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.waiter_count -= 1
            if not call.waiter_count and not call.task.done():
                self._leave(key, call.task)
                call.task.cancel()

    def _leave(self, key: CallKey, task: asyncio.Task[Any] | None) -> None:
        """Nobody joins a call that ends; another one may have the name already."""
        if (call := self._running.get(key)) is not None and call.task is task:
            del self._running[key]


def _key(tenant: str, request: pb.GenerateRequest) -> CallKey:
    size = len(request.request_id.encode())
    if size > MAX_REQUEST_ID_BYTES:
        description = f"must have at most {MAX_REQUEST_ID_BYTES} bytes, has {size}"
        raise invalid_request([out_of_range("request_id", description)])
    return CallKey(tenant, request.request_id)


def _digest(request: pb.GenerateRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _check_same(request: pb.GenerateRequest, known: bytes, digest: bytes) -> None:
    if known != digest:
        raise request_id_taken(request.request_id)
