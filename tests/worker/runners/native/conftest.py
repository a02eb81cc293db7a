"""The C code, compiled once for all of its tests."""

import shutil

import pytest

from worker.loading.cpu import cpu_has_4bit_kernel
from worker.runners.native.library import Library, load


@pytest.fixture(scope="session")
def _can_run() -> None:
    if not cpu_has_4bit_kernel():
        pytest.skip("this CPU has no AVX512-BF16, for which the C code is written")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler (cc, gcc or clang)")


@pytest.fixture(scope="session")
def library(_can_run: None, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The compiled code, on one thread."""
    return load(1, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def two_threads(library: Library) -> Library:
    """The same, on two threads."""
    return Library(library.path, 2)
