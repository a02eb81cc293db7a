"""Tells a silent worker from a gateway that has not read what the worker said.

All connections of a process share gRPC's few threads. A peer that sends without a pause keeps one of them busy, and
gRPC adds one a second: some such peers stop the reading from others for seconds, and the workers' heartbeats stay in
the kernel's buffers.
"""

import array
import contextlib
import fcntl
import os
import socket
import stat
import termios
from pathlib import Path

_DESCRIPTORS = Path("/dev/fd")


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
