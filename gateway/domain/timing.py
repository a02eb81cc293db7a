"""Where the time of a sequence went. Pure: instants are seconds of a monotonic clock, given by whoever saw them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds, as the answer reports them."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    time_to_first_token_s: float = 0.0


@dataclass(slots=True)
class Timeline:
    """The instants of a sequence, as they become known."""

    arrived_at: float
    submitted_at: float | None = None
    worker_wait_s: float = 0.0
    prefill_s: float = 0.0
    first_token_at: float | None = None
    last_token_at: float | None = None

    def submit(self, now: float) -> None:
        """It goes to a worker at `now`. What comes after the first token is not counted: it has been served."""
        if self.first_token_at is None:
            self.submitted_at = now

    def requeue(self) -> None:
        """It waits for another worker."""
        if self.first_token_at is None:
            self.submitted_at = None

    def start(self, wait_s: float, prefill_s: float) -> None:
        """Its worker's account of the time before the first token, in seconds."""
        if self.first_token_at is None:
            self.worker_wait_s, self.prefill_s = wait_s, prefill_s

    def token(self, now: float) -> None:
        """A token came at `now`."""
        if self.first_token_at is None:
            self.first_token_at = now
        self.last_token_at = now

    def timing(self, now: float) -> Timing:
        """The durations, for a sequence that ends, or is looked at, at `now`."""
        submitted_at = now if self.submitted_at is None else self.submitted_at
        queue_s = submitted_at - self.arrived_at + self.worker_wait_s
        if self.first_token_at is None or self.last_token_at is None:
            return Timing(queue_s=queue_s, prefill_s=self.prefill_s)
        return Timing(
            queue_s=queue_s,
            prefill_s=self.prefill_s,
            decode_s=self.last_token_at - self.first_token_at,
            time_to_first_token_s=self.first_token_at - self.arrived_at,
        )
