"""Triton's kernels compute what plain torch does: in Triton's interpreter, which needs no GPU."""

import sys

import pytest

from tests.worker.runners.cuda import kernels

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux alone")


@needs_triton
def test_the_kernels_compute_what_plain_torch_does() -> None:
    done = kernels.run(interpreted=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.long
def test_a_model_through_the_kernels_is_the_model() -> None:
    done = kernels.run(interpreted=True, marked="long")
    assert done.returncode == 0, done.stdout + done.stderr
