"""The C code, compiled once for all of its tests at every level that this CPU can run."""

import platform
import shutil
from pathlib import Path
from typing import cast

import pytest

from worker.loading.cpu_level import LEVELS, CpuLevel, runnable_levels
from worker.runners.native.library import Library, load

IS_ARM = platform.machine() == "aarch64"
LEVELS_HERE = [level for level in LEVELS if level.name == "generic" or (level.name == "neon") == IS_ARM]


@pytest.fixture(scope="session", params=LEVELS_HERE, ids=lambda level: level.name)
def level(request: pytest.FixtureRequest) -> CpuLevel:
    """A level that this CPU can run."""
    level = cast(CpuLevel, request.param)
    if level not in runnable_levels():
        pytest.skip(f"this CPU lacks {level.name}")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler (cc, gcc or clang)")
    return level


@pytest.fixture(scope="session")
def library(level: CpuLevel, compiled_folder: Path) -> Library:
    """The compiled code, on one thread."""
    return load(1, level, compiled_folder)


@pytest.fixture(scope="session")
def two_threads(library: Library) -> Library:
    """The same, on two threads."""
    return Library(library.path, 2)
