"""Starts a worker process, and watches its log and its memory until it is ready."""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_INTERVAL_S = 0.005
_LIMIT_S = 600.0
_READY = "textserve-worker ready"
_LOADED = "loading took: "
_FLAGS = ("--memory-gib", "0.25", "--max-rows", "16", "--listen", "127.0.0.1:0", "--exit-with-stdin")


@dataclass(frozen=True)
class Sample:
    """A process's resident memory at one time."""

    seconds: float
    """Since the process was started."""
    anonymous: int
    """Bytes of its own."""
    mapped: int
    """Bytes of mapped files, which the kernel can drop: libraries, and weights if they are mapped."""


@dataclass(frozen=True)
class Line:
    """A line of a process's log."""

    seconds: float
    """Since the process was started, to some milliseconds."""
    text: str


@dataclass(frozen=True)
class Start:
    """What was seen of one start, from the process's first moment to its line that says it is ready."""

    samples: list[Sample]
    lines: list[Line]

    @property
    def seconds(self) -> float:
        """Returns how long it took until the worker was ready."""
        return self.lines[-1].seconds

    @property
    def phases(self) -> dict[str, float]:
        """Returns the seconds of each phase, in order; they add up to all but some milliseconds of the start."""
        return {
            "imports and kernels": self._load_began,
            **{part: float(seconds) for part, seconds in re.findall(r"(\w+) ([\d.]+) s(?=,)", self._loaded.text)},
            "memory": self.lines[-2].seconds - self._loaded.seconds,
            "warm-up": self.lines[-1].seconds - self.lines[-2].seconds,
        }

    @property
    def load_peak(self) -> Sample:
        """Returns the most memory of both kinds while the model was loaded, less what was there before."""
        began, ended = self._load_began, self._loaded.seconds
        before = [sample for sample in self.samples if sample.seconds < began][-1]
        during = [sample for sample in self.samples if began <= sample.seconds <= ended]
        return Sample(
            ended - began,
            max(sample.anonymous for sample in during) - before.anonymous,
            max(sample.mapped for sample in during) - before.mapped,
        )

    @property
    def _loaded(self) -> Line:
        return next(line for line in self.lines if _LOADED in line.text)

    @property
    def _load_began(self) -> float:
        found = re.search(r"begun ([\d.]+) s after the process", self._loaded.text)
        assert found, self._loaded.text
        return float(found[1])


def start_worker(folder: Path, cache: Path) -> Start:
    """Starts a worker with a model's folder and a folder for compiled code, and ends it as soon as it is ready.

    Raises RuntimeError, with its log, if it ends by itself or is not ready within ten minutes.
    """
    command = [sys.executable, "-m", "worker", "--model", str(folder), *_FLAGS]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            return _watch(process, log)
        finally:
            process.kill()
            process.communicate()


def _watch(process: subprocess.Popen[bytes], log: IO[str]) -> Start:
    began = time.monotonic()
    start = Start([], [])
    while not start.lines or _READY not in start.lines[-1].text:
        now = time.monotonic() - began
        start.lines.extend(Line(now, text) for text in _lines(log)[len(start.lines) :])
        if process.poll() is not None or now > _LIMIT_S:
            raise RuntimeError("\n".join(line.text for line in start.lines))
        start.samples.append(_sample(process.pid, now))
        time.sleep(_INTERVAL_S)
    return start


def _lines(log: IO[str]) -> list[str]:
    """Returns the whole lines of a log that a process goes on writing."""
    text = os.pread(log.fileno(), 1 << 20, 0).decode()
    return text[: text.rfind("\n") + 1].splitlines()


def _sample(pid: int, seconds: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    sizes = {name: 1024 * int(size) for name, size in re.findall(r"(RssAnon|RssFile):\s+(\d+) kB", status)}
    return Sample(seconds, sizes.get("RssAnon", 0), sizes.get("RssFile", 0))
