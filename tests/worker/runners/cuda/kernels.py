"""Runs the properties of Triton's kernels in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PROPERTIES = Path(__file__).with_name("kernel_properties.py")


# Of its own, so that it runs without plugins, too.
_SETTINGS = (
    "-c",
    os.devnull,
    "--rootdir",
    ".",
    "--noconftest",
    "--import-mode=importlib",
    "-o",
    "markers=long: as long",
)


def run(*, interpreted: bool, marked: str = "not long") -> subprocess.CompletedProcess[str]:
    """Returns how the properties with this mark went: by Triton's interpreter on the CPU, or compiled, on the GPU."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "protos"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, **({"TRITON_INTERPRET": "1"} if interpreted else {})}
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(PROPERTIES),
        "-q",
        "-m",
        marked,
        "-p",
        "no:cacheprovider",
        *_SETTINGS,
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
