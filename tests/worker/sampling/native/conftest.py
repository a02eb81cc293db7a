"""The C sampler, compiled once for all of its tests, at each level that this CPU can run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.loading.cpu_level import cpu_level, runnable_levels
from worker.runners.native.library import compiled
from worker.sampling.native.native_sampler import FLAGS, SOURCE, NativeSampler

FASTEST, *OTHERS = (level.name for level in runnable_levels())


@pytest.fixture(scope="session")
def sampling_folder(compiled_folder: Path) -> Path:
    """Where it is kept."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler (cc, gcc or clang)")
    return compiled_folder


@pytest.fixture(scope="session")
def sampling_library(sampling_folder: Path) -> Path:
    """What was compiled for this CPU."""
    return compiled(SOURCE, cpu_level(), flags=FLAGS, folder=sampling_folder)


@pytest.fixture(scope="session", params=[(FASTEST, 3), *((level, 1) for level in (FASTEST, *OTHERS))], ids=str)
def native(sampling_folder: Path, request: pytest.FixtureRequest) -> NativeSampler:
    """The sampler at a level, with one thread for all rows, or with three, which share few rows out in parts."""
    level, threads = request.param
    return NativeSampler(compiled(SOURCE, cpu_level(level), flags=FLAGS, folder=sampling_folder), threads)


@pytest.fixture
def mistaken(tmp_path: Path, sampling_library: Path) -> Callable[[str, str], NativeSampler]:
    """Returns a sampler whose sources have one text, which they hold once, replaced by another."""

    def make(right: str, wrong: str) -> NativeSampler:
        found = 0
        for source in SOURCE.parent.glob("*.[ch]"):
            text = source.read_text()
            found += text.count(right)
            (tmp_path / source.name).write_text(text.replace(right, wrong))
        assert found == 1, f"{right!r} is {found} times in the sources"
        # Optimized less: quicker to compile, and as wrong.
        flags = (*FLAGS, "-O1")
        return NativeSampler(compiled(tmp_path / SOURCE.name, cpu_level(), flags=flags, folder=tmp_path), 1)

    return make
