"""Runs the properties of Triton's kernels in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PROPERTIES = Path(__file__).with_name("kernel_properties.py")


def run(*, interpreted: bool, marked: str = "not long") -> subprocess.CompletedProcess[str]:
    """Returns how the properties with this mark went: by Triton's interpreter on the CPU, or compiled, on the GPU."""
    environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if interpreted else {})}
    command = [sys.executable, "-m", "pytest", str(PROPERTIES), "-q", "-m", marked, "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
