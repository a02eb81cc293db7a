"""The C sampler, compiled once for all of its tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.loading.cpu_level import cpu_level
from worker.runners.native.library import compiled
from worker.sampling.native.native_sampler import FLAGS, SOURCE, NativeSampler


@pytest.fixture(scope="session")
def sampling_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was compiled."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler (cc, gcc or clang)")
    return compiled(SOURCE, cpu_level(), flags=FLAGS, folder=tmp_path_factory.mktemp("sampling"))


@pytest.fixture(scope="session", params=[1, 3], ids=["one thread", "three threads"])
def native(sampling_library: Path, request: pytest.FixtureRequest) -> NativeSampler:
    """The sampler, with a thread for all rows, or with rows in parts where there are fewer than three."""
    return NativeSampler(sampling_library, request.param)


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
        return NativeSampler(compiled(tmp_path / SOURCE.name, cpu_level(), flags=FLAGS, folder=tmp_path), 1)

    return make
