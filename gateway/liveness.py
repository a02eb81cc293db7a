"""Judges by its messages whether a worker is alive. Pure: time comes in as an argument, in seconds."""

from dataclasses import dataclass

# Workers send a heartbeat every second: three may be missed.
SILENCE_LIMIT_S = 3.5


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker says of itself every second. An idle engine has limit and elapsed 0."""

    incarnation_id: str
    step: int
    step_limit_s: float
    step_elapsed_s: float


class Liveness:
    """One worker's signs of life on one stream.

    Args:
        incarnation_id: The process that was described when the stream was opened.
        now: When the stream was opened.
    """

    def __init__(self, incarnation_id: str, now: float) -> None:
        self._incarnation_id = incarnation_id
        self._heard_at = now
        self._beat: Heartbeat | None = None

    def heard(self, now: float) -> None:
        """Any message came."""
        self._heard_at = now

    def beat(self, heartbeat: Heartbeat) -> None:
        """A heartbeat came."""
        self._beat = heartbeat

    def fault(self, now: float) -> str | None:
        """What is wrong with the worker, None if nothing is."""
        silence_s = now - self._heard_at
        if silence_s > SILENCE_LIMIT_S:
            return f"it has been silent for {silence_s:.1f} s"
        beat = self._beat
        if beat is None:
            return None
        if beat.incarnation_id != self._incarnation_id:
            return "another process answers in its place"
        if beat.step_limit_s > 0 and beat.step_elapsed_s > beat.step_limit_s:
            return f"engine step {beat.step} has taken {beat.step_elapsed_s:.1f} s of at most {beat.step_limit_s:.1f} s"
        return None
