"""What is asked of a GPU whenever one is at hand, in one run of at most ten minutes.

Parts run in the order of what they tell for a second of a card's time: where it is, whether captures and graphs are
right, how fast steps are, whether each kernel is. Each is a process of its own, so that one that dies, or poisons its
device, ends nothing else; what it printed is in a file as soon as it has. It needs a Python with torch, Triton,
transformers, bitsandbytes and pytest, no virtual environment, no network and no plugin.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEAST_S = 20.0
"""A part that has less than this left is not begun."""
_PYTEST = ("-m", "pytest", "-q", "-rs", "-c", "/dev/null", "--rootdir", ".", "--noconftest", "-p", "no:cacheprovider")
_ENVIRONMENT = """
import torch, triton, transformers, bitsandbytes, sys
gpu = torch.cuda.get_device_properties(0)
print("python", sys.version.split()[0], "torch", torch.__version__, "CUDA", torch.version.cuda)
print("triton", triton.__version__, "transformers", transformers.__version__, "bitsandbytes", bitsandbytes.__version__)
print(gpu.name, f"compute capability {gpu.major}.{gpu.minor}", f"{gpu.total_memory / 2**30:.1f} GiB")
print("free GiB", round(torch.cuda.mem_get_info()[0] / 2**30, 1), "of", torch.cuda.device_count(), "GPUs")
from worker.runners.cuda.assembly import lack
print("captured steps lack:", lack((gpu.major, gpu.minor)) or "nothing")
"""


@dataclass(frozen=True)
class Part:
    """Something to run, and the most seconds that it is worth."""

    name: str
    arguments: tuple[str, ...]
    most_s: float


PARTS = (
    Part("environment", ("-c", _ENVIRONMENT), 60),
    Part("captures", (*_PYTEST, "tests/gpu/test_capture.py"), 60),
    Part("graphs", (*_PYTEST, "tests/gpu/test_graphs.py"), 150),
    Part("waits", (*_PYTEST, "tests/gpu/test_waits.py", "tests/gpu/test_moves.py"), 60),
    Part("steps", ("-m", "bench.gpu", "--rounds", "2"), 400),
    Part("kernels", (*_PYTEST, "tests/gpu/test_kernels.py"), 240),
)


@dataclass(frozen=True)
class Result:
    """How a part went."""

    name: str
    seconds: float
    outcome: str
    """"done", "failed", "cut short" or "not begun"."""


def run(parts: Sequence[Part], out: Path, budget_s: float) -> list[Result]:
    """Runs parts one after the other, until the time is up; writes each one's output, and after each the summary."""
    ends_at = time.monotonic() + budget_s
    results: list[Result] = []
    for part in parts:
        left_s = ends_at - time.monotonic()
        results.append(
            _run(part, out, min(part.most_s, left_s)) if left_s > LEAST_S else Result(part.name, 0, "not begun")
        )
        print(f"{part.name}: {results[-1].outcome}, {results[-1].seconds:.0f} s", flush=True)
        (out / "summary.json").write_text(json.dumps([asdict(each) for each in results], indent=1))
    return results


def _run(part: Part, out: Path, limit_s: float) -> Result:
    began = time.monotonic()
    with (out / f"{part.name}.txt").open("w") as file:
        try:
            done = subprocess.run(
                [sys.executable, *part.arguments],
                cwd=ROOT,
                env=_environment(os.environ),
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
                check=False,
            )
            outcome = "failed" if done.returncode else "done"
        except subprocess.TimeoutExpired:
            outcome = "cut short"
    return Result(part.name, round(time.monotonic() - began, 1), outcome)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "protos"), *filter(None, [given.get("PYTHONPATH")])]
    return {**given, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def lack() -> str:
    """Returns why there is nothing to run on; empty if there is a GPU."""
    try:
        import torch  # noqa: PLC0415 - any Python may lack it
    except ImportError as error:
        return f"{sys.executable} has no torch: {error}"
    if torch.cuda.is_available():
        return ""
    return f"torch {torch.__version__} of {sys.executable} sees no CUDA device"


def main() -> int:
    """Runs everything, and returns the exit code: 2 without a GPU, 1 if a part failed or did not come to its end."""
    parser = argparse.ArgumentParser(description="Test and measure on a GPU, within a limit of time.")
    parser.add_argument("--out", type=Path, default=Path("gpu-day"), help="folder for what the parts print")
    parser.add_argument("--seconds", type=float, default=590.0, help="time for all of it")
    given = parser.parse_args()
    if reason := lack():
        print(f"gpu-day needs a GPU: {reason}", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    results = run(PARTS, given.out, given.seconds)
    return 0 if all(each.outcome == "done" for each in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
