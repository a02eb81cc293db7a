"""Whether an address is free, found out before a model is loaded for nothing.

gRPC removes a socket that is in its way: a second worker would silently take over the path of one that runs.
"""

import errno
import os
import re
import socket
from pathlib import Path
from typing import Any

_HOST_AND_PORT = re.compile(r"(?:(?P<name>[^:/\[\]]*)|\[(?P<number>[^\]]+)\]):(?P<port>\d+)")


def check_free(address: str) -> None:
    """Raises OSError if somebody listens on `address` ("unix:PATH" or "HOST:PORT"), or nobody can.

    Between this check and the moment of listening it may be taken. Forms of addresses that only gRPC knows pass.
    """
    if address.startswith("unix:"):
        _check_path(address.removeprefix("unix:"))
    elif parts := _HOST_AND_PORT.fullmatch(address):
        _check_port(parts["name"] or parts["number"], parts["port"])


def _check_path(path: str) -> None:
    place = Path(path.removeprefix("//"))
    if not place.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if place.exists() and (not place.is_socket() or _answers(place)):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _answers(path: Path) -> bool:
    """Whether a process listens on a socket; one that was left over by a dead process refuses."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def _check_port(host: str, port: str) -> None:
    if port == "0":
        return
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    errors = [_bind_error(family, place) for family, _, _, _, place in found]
    for error in errors:
        # A name may stand for several addresses, some of which this machine need not have.
        if error is not None and (error.errno == errno.EADDRINUSE or all(errors)):
            raise error


def _bind_error(family: socket.AddressFamily, place: tuple[Any, ...]) -> OSError | None:
    try:
        with socket.socket(family) as probe:
            # A port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        return error
    return None
