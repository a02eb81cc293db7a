"""How long is waited after a death, or a lost connection, before the next try. Pure: uptime and chance come in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackoffPolicy:
    """The numbers of the backoff."""

    initial_s: float = 0.5
    """Delay after the first death, in seconds."""

    multiplier: float = 2.0
    """Growth of the delay from one death to the next."""

    max_s: float = 30.0
    """Longest delay before jitter, in seconds."""

    missed_max_s: float = 5.0
    """The same for what is missed: requests wait for it, and only for so long."""

    jitter: float = 0.2
    """Largest deviation, as a share of the delay, so that workers that died together do not load together."""

    reset_after_s: float = 60.0
    """A worker that has been up for so many seconds starts afresh."""


class Backoff:
    """The delays of one worker, death after death."""

    def __init__(self, policy: BackoffPolicy) -> None:
        self._policy = policy
        self._delay_s = policy.initial_s

    def next_delay(self, *, uptime_s: float, chance: float, is_missed: bool = False) -> float:
        """Returns the seconds to wait after a death.

        Args:
            uptime_s: how long the worker was ready before it died; 0 if it never was.
            chance: a random number from 0 to 1, which places the delay between its smallest and its largest.
            is_missed: whether there is no other worker.
        """
        policy = self._policy
        delay_s = policy.initial_s if uptime_s >= policy.reset_after_s else self._delay_s
        self._delay_s = min(delay_s * policy.multiplier, policy.max_s)
        if is_missed:
            delay_s = min(delay_s, policy.missed_max_s)
        return delay_s * (1 + policy.jitter * (2 * chance - 1))
