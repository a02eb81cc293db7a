"""Which workers get nothing new for a while because they fail far more than the others. Pure: time is an argument.

A worker can be alive, beat in time, and still ruin what it is given: a device that computes NaN, a connection that
breaks time and again. Its failures are compared with those of the others, so that what fails everywhere, as a bad
request does, ejects nobody. (Outlier detection as in Envoy, "Outlier detection", but on the share of failures.)
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from statistics import median_low


@dataclass(frozen=True, slots=True)
class EjectionPolicy:
    """The numbers of ejection. Times are in seconds."""

    half_life_s: float = 60.0
    """After so long an event counts half."""

    least_failures: float = 4.5
    """Failures, each weighed by its age, below which nothing is said of a worker: five in a row are enough."""

    least_share: float = 0.3
    """Failures among all that was begun or failed, from 0 to 1, below which a worker is no outlier."""

    factor: float = 3.0
    """How many times the others' median share an outlier's share is, at least: two bad ones do not hide each other."""

    first_s: float = 10.0
    """Duration of the first ejection; each further one takes twice as long."""

    longest_s: float = 300.0
    """Longest ejection."""

    reset_after_s: float = 600.0
    """A worker that has been in for so long since its last ejection starts afresh."""

    most_share: float = 0.5
    """Share of the workers that may be out at once, from 0 to below 1. Who goes beyond it stays, however it fails."""


@dataclass(slots=True)
class _Record:
    """What is known of one worker. `begun` and `failed` are weighed by age, as of `at`."""

    begun: float = 0.0
    failed: float = 0.0
    at: float = 0.0
    ejections: int = 0
    since: float = field(default=float("-inf"))
    until: float = field(default=float("-inf"))

    @property
    def share(self) -> float:
        return self.failed / (self.begun + self.failed) if self.failed else 0.0


class OutlierDetector:
    """The records of all workers, by name: they outlive their processes and their streams."""

    def __init__(self, policy: EjectionPolicy = EjectionPolicy()) -> None:
        self._policy = policy
        self._records: dict[str, _Record] = {}

    def begun(self, worker: str, count: int, now: float) -> None:
        """So many generations got their first token there."""
        self._aged(worker, now).begun += count

    def failed(self, worker: str, count: int, now: float) -> None:
        """So many generations failed there; or a stream to it broke, which counts as one."""
        self._aged(worker, now).failed += count

    def ejected(self, workers: Collection[str], now: float) -> frozenset[str]:
        """Those of `workers`, which are all that could be given work, that are to get nothing new at `now`.

        At most half of them: if there are more outliers, those ejected first stay out. With one worker, none.
        """
        most = self._most(workers)
        if not most:
            return frozenset()
        while worker := self._worst(workers, now):
            self._eject(self._records[worker], now)
        out = sorted(self._out(workers, now), key=lambda worker: (self._records[worker].since, worker))
        return frozenset(out[:most])

    def _aged(self, worker: str, now: float) -> _Record:
        record = self._records.setdefault(worker, _Record(at=now))
        weight = 0.5 ** (max(0.0, now - record.at) / self._policy.half_life_s)
        record.begun *= weight
        record.failed *= weight
        record.at = now
        return record

    def _most(self, workers: Collection[str]) -> int:
        return int(len(workers) * self._policy.most_share)

    def _out(self, workers: Iterable[str], now: float) -> list[str]:
        return [worker for worker in workers if worker in self._records and now < self._records[worker].until]

    def _worst(self, workers: Collection[str], now: float) -> str | None:
        """The outlier that fails most, if one more may be ejected."""
        if not any(self._is_suspicious(worker) for worker in workers):
            return None
        if len(self._out(workers, now)) >= self._most(workers):
            return None
        for worker in workers:
            self._aged(worker, now)
        outliers = [worker for worker in workers if self._is_outlier(worker, workers, now)]
        return min(outliers, key=lambda worker: (-self._records[worker].share, worker), default=None)

    def _is_suspicious(self, worker: str) -> bool:
        return worker in self._records and self._records[worker].failed >= self._policy.least_failures

    def _is_outlier(self, worker: str, workers: Iterable[str], now: float) -> bool:
        record = self._records[worker]
        if now < record.until or not self._is_suspicious(worker):
            return False
        usual = median_low(self._records[other].share for other in workers if other != worker)
        return record.share >= max(self._policy.least_share, self._policy.factor * usual)

    def _eject(self, record: _Record, now: float) -> None:
        if now - record.until >= self._policy.reset_after_s:
            record.ejections = 0
        duration_s = min(self._policy.first_s * 2.0**record.ejections, self._policy.longest_s)
        record.since, record.until = now, now + duration_s
        record.ejections += 1
        record.begun = record.failed = 0.0
