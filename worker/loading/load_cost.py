"""What loading a model costs: seconds of each part, and memory."""

import time
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_MIB = 2**20


class LoadCost:
    """Counts from its creation on; each part begins where the one before ended."""

    def __init__(self) -> None:
        """Notes when the process began and what it holds: imports, mostly."""
        process = psutil.Process()
        self.seconds_before = time.time() - process.create_time()
        self.bytes_before = process.memory_info().rss
        self.parts: list[tuple[str, float]] = []
        self._began = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Returns the time since the load began."""
        return time.monotonic() - self._began

    def end(self, part: str) -> None:
        """Says that a part has ended."""
        now = time.monotonic()
        self.parts.append((part, now - self._last))
        self._last = now

    def __str__(self) -> str:
        """Returns the parts' seconds and the memory, for a log."""
        parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in self.parts)
        peak = peak_bytes()
        most = f", at most {peak / _MIB:.0f} MiB until now" if peak else ""
        return (
            f"{parts}, begun {self.seconds_before:.2f} s after the process; "
            f"memory of the process {self.bytes_before / _MIB:.0f} MiB before{most}"
        )


def peak_bytes() -> int:
    """Returns the most memory that this process has ever held, mapped files included; 0 where Linux does not tell."""
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
