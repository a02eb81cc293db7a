"""Triton's kernels compute what plain torch does: in Triton's interpreter, which needs no GPU."""

from importlib.util import find_spec

import pytest

from tests.worker.runners.cuda import kernels


@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; it comes with torch's GPU builds")
def test_the_kernels_compute_what_plain_torch_does() -> None:
    done = kernels.run(interpreted=True)
    assert done.returncode == 0, done.stdout + done.stderr
