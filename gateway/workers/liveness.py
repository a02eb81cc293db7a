"""Judges by its messages whether a worker is alive: time comes in as an argument, in seconds.

A silent worker is told from a gateway that has not read what the worker said. All connections of a process share gRPC's
few threads. A peer that sends without a pause keeps one of them busy, and gRPC adds one a second: some such peers stop
the reading from others for seconds, and the workers' heartbeats stay in the kernel's buffers.
"""

import array
import contextlib
import fcntl
import os
import socket
import stat
import termios
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..domain.worker_words import Heartbeat

# Workers send a heartbeat every second: two may be missed.
SILENCE_LIMIT_S = 3.0
_DESCRIPTORS = Path("/dev/fd")


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


class Liveness:
    """One worker's signs of life on one stream.

    Args:
        incarnation_id: The process that was described when the stream was opened.
        now: When the stream was opened.
    """

    def __init__(self, incarnation_id: str, now: float) -> None:
        self.heard_at = now
        """When any message came last."""
        self.has_stepped = False
        """Whether the outcome of a step came since the last heartbeat: what that said of one under way is over."""
        self._incarnation_id = incarnation_id
        self._beat: Heartbeat | None = None

    def beat(self, heartbeat: Heartbeat) -> None:
        """A heartbeat came."""
        self._beat = heartbeat
        self.has_stepped = False

    def fault(self, now: float) -> Fault | None:
        """What is wrong with the worker, None if nothing is."""
        silence_s = now - self.heard_at
        if silence_s > SILENCE_LIMIT_S:
            return Fault(FaultKind.SILENT, f"it has been silent for {silence_s:.1f} s")
        beat = self._beat
        if beat is None:
            return None
        if beat.incarnation_id != self._incarnation_id:
            return Fault(FaultKind.REPLACED, "another process answers in its place")
        if not self.has_stepped and 0 < beat.step_limit_s < beat.step_elapsed_s:
            return Fault(FaultKind.HUNG, _hung(beat))
        return None


def _hung(beat: Heartbeat) -> str:
    return f"engine step {beat.step} has taken {beat.step_elapsed_s:.1f} s of at most {beat.step_limit_s:.1f} s"


def has_unread(target: str) -> bool:
    """Returns whether bytes from there wait in one of this process's connections, as the kernel tells.

    Args:
        target: `unix:/path` or `address:port`, with the address as a number; of others nothing is known.
    """
    return any(_unread_bytes(each) > 0 and _peer(each) == target for each in _descriptors())


def _descriptors() -> list[int]:
    with contextlib.suppress(OSError):  # no such folder, or no descriptor left to read it with
        return [int(each.name) for each in _DESCRIPTORS.iterdir()]
    return []


def _peer(descriptor: int) -> str:
    """Returns where a connection goes, in gRPC's words; nothing for what is no connection, or is closed meanwhile."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return ""
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            name = connection.getpeername()
    except OSError:
        return ""
    return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"


def _unread_bytes(descriptor: int) -> int:
    count = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]
