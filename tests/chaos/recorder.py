"""Keeps events in a file, where they outlive the process that wrote them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.events import Event, from_line, to_line

now = time.monotonic


class Recorder:
    """Appends events to a file of its own in `folder`, each with one write: a kill loses none that was told."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}.events"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, event: Event) -> None:
        os.write(self._file, to_line(event).encode() + b"\n")


def recorded(folder: Path) -> list[Event]:
    """All events of a run, in the order of their times."""
    events = [event for path in sorted(folder.glob("*.events")) for event in _read(path)]
    return sorted(events, key=lambda event: event.at)


def _read(path: Path) -> Iterator[Event]:
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):  # the last one may be under way
                yield from_line(line)
