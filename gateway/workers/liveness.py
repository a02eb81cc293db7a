"""Judges by its messages whether a worker is alive. Pure: time comes in as an argument, in seconds."""

from dataclasses import dataclass
from enum import Enum

# Workers send a heartbeat every second: two may be missed.
SILENCE_LIMIT_S = 3.0


class FaultKind(Enum):
    """What kind of thing is wrong, for whoever has to mend it."""

    SILENT = "stopped, or its event loop is blocked; it may go on as if nothing had been"
    HUNG = "its engine does not come back from a step"
    REPLACED = "another process answers in its place"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a worker, in kind and in words."""

    kind: FaultKind
    why: str


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
        self._has_stepped = False

    def heard(self, now: float) -> None:
        """Any message came."""
        self._heard_at = now

    def beat(self, heartbeat: Heartbeat) -> None:
        """A heartbeat came."""
        self._beat = heartbeat
        self._has_stepped = False

    def stepped(self) -> None:
        """The outcome of a step came: what the last heartbeat said of the step under way no longer holds."""
        self._has_stepped = True

    def fault(self, now: float) -> Fault | None:
        """What is wrong with the worker, None if nothing is."""
        silence_s = now - self._heard_at
        if silence_s > SILENCE_LIMIT_S:
            return Fault(FaultKind.SILENT, f"it has been silent for {silence_s:.1f} s")
        beat = self._beat
        if beat is None:
            return None
        if beat.incarnation_id != self._incarnation_id:
            return Fault(FaultKind.REPLACED, "another process answers in its place")
        if not self._has_stepped and 0 < beat.step_limit_s < beat.step_elapsed_s:
            return Fault(FaultKind.HUNG, _hung(beat))
        return None


def _hung(beat: Heartbeat) -> str:
    return f"engine step {beat.step} has taken {beat.step_elapsed_s:.1f} s of at most {beat.step_limit_s:.1f} s"
