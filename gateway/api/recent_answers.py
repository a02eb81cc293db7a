"""The answers of calls that have just ended, by the names that their callers gave them. Pure: time is an argument."""

from collections import OrderedDict
from dataclasses import dataclass

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
        size = _size_bytes(key, kept)
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
            self.size_bytes -= _size_bytes(key, dropped)


def _size_bytes(key: CallKey, kept: RecentAnswer) -> int:
    return key.size_bytes + len(kept.digest) + len(kept.answer) + OVERHEAD_BYTES
