"""Calls of one name generate once: a second one joins the first, or gets its answer for a short while.

Best effort, and for this gateway alone: a caller that lost its connection, and asks again, is not generated for twice.
Nothing rests on it.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from textserve.v1 import generation_pb2 as pb

from .config_limits import out_of_range
from .errors import Code, ServiceError, invalid_request, request_id_taken
from .recent_answers import CallKey, RecentAnswers

WINDOW_S = 60.0
LIMIT_BYTES = 32 << 20
MAX_REQUEST_ID_BYTES = 128
MAX_JOINS = 3
"""Whoever has joined so many calls that had less time than it is served by itself: each end wakes all that wait."""

Work = Callable[[], Coroutine[Any, Any, pb.GenerateResponse]]


@dataclass(slots=True, eq=False)
class _Call:
    """A call that runs, and how many wait for it."""

    digest: bytes
    task: asyncio.Task[pb.GenerateResponse]
    waiter_count: int = 0


class Deduplication:
    """Runs calls that have names. What fails is not kept: who asks again after a failure is served anew.

    Args:
        clock: Seconds of a monotonic clock.
        window_s: How long an answer is kept, in seconds.
        limit_bytes: Most bytes of all answers that are kept.
    """

    def __init__(
        self, clock: Callable[[], float], *, window_s: float = WINDOW_S, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self._clock = clock
        self._recent = RecentAnswers(window_s=window_s, limit_bytes=limit_bytes)
        self._running: dict[CallKey, _Call] = {}

    async def run(self, tenant: str, request: pb.GenerateRequest, work: Work) -> pb.GenerateResponse:
        """The answer to `request`: that of `work`, unless a call of this tenant with its request_id has made it.

        `work` runs in a task of its own. It is cancelled when the last of those that wait for it is.

        Raises ServiceError if the request_id is too long or another request has it, and what `work` raises.
        """
        if not request.request_id:
            return await work()
        key, digest = _key(tenant, request), _digest(request)
        for _ in range(MAX_JOINS):
            if (kept := self._recent.get(key, self._clock())) is not None:
                _check_same(request, kept.digest, digest)
                return pb.GenerateResponse.FromString(kept.answer)
            if (running := self._running.get(key)) is None:
                return await self._wait(key, self._start(key, digest, work))
            _check_same(request, running.digest, digest)
            try:
                return await self._wait(key, running)
            except ServiceError as error:
                # A deadline was that of the call that it joined.
                if error.code is not Code.DEADLINE_EXCEEDED:
                    raise
        return await work()

    def _start(self, key: CallKey, digest: bytes, work: Work) -> _Call:
        call = self._running[key] = _Call(digest, asyncio.create_task(self._work(key, digest, work)))
        return call

    async def _work(self, key: CallKey, digest: bytes, work: Work) -> pb.GenerateResponse:
        try:
            answer = await work()
        finally:
            self._leave(key, asyncio.current_task())
        self._recent.put(key, digest, answer.SerializeToString(), self._clock())
        return answer

    async def _wait(self, key: CallKey, call: _Call) -> pb.GenerateResponse:
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
