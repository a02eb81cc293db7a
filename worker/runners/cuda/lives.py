"""Marks that tell a worker of earlier lives that ended in its warm-up, as where a kernel has poisoned the device.

A fault of a kernel cannot be caught: the device's context is gone, and the process with it. Whoever starts it anew
would see it die anew. So a life leaves a mark while its captured steps are tried, locked as long as it lives; marks
that nobody holds are of lives that have ended there. After two such ends, for one may have been anybody's kill, steps
are not captured, until a mark is a day old or its file is deleted.
"""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from ...memory.device_errors import is_lost_device

logger = logging.getLogger(__name__)

MOST_DEATHS = 2
_KEPT_S = 24 * 3600.0


def folder() -> Path:
    """Returns where marks are kept: beside what is compiled."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "textserve" / "trials"


def key_of(gpu: str) -> str:
    """Returns a name for a kind of GPU with the versions whose kernels it runs."""
    versions = [gpu, *(_version(name) for name in ("textserve", "torch", "triton", "bitsandbytes"))]
    return hashlib.sha256("|".join(versions).encode()).hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def deaths(where: Path, key: str, now: float | None = None) -> list[Path]:
    """Returns the marks of lives that have ended while they tried; those that are a day old are deleted."""
    found = []
    for mark in sorted(where.glob(f"{key}-*")):
        with suppress(OSError), mark.open("rb+") as file:
            if not _is_locked(file):
                if (time.time() if now is None else now) - mark.stat().st_mtime > _KEPT_S:
                    mark.unlink()
                else:
                    found.append(mark)
    return found


@contextmanager
def marked(where: Path, key: str) -> Iterator[None]:
    """Leaves a mark for as long as this lasts; it stays if the process dies, or the device is lost, within."""
    mark = where / f"{key}-{os.getpid()}-{time.time_ns()}"
    try:
        where.mkdir(parents=True, exist_ok=True)
        file = mark.open("xb")
    except OSError as error:
        logger.debug("no mark is left: %s", error)
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        except Exception as error:
            if not is_lost_device(error):
                mark.unlink(missing_ok=True)
            raise
        mark.unlink(missing_ok=True)


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
