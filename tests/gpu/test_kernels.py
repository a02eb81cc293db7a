"""Triton's kernels, compiled for the device, compute what plain torch does."""

import pytest

from tests.gpu.graphs import needs_gpu
from tests.worker.runners.cuda import kernels

pytestmark = needs_gpu


@pytest.mark.timeout(900)
def test_the_kernels_compute_what_plain_torch_does_on_the_device() -> None:
    done = kernels.run(interpreted=False, marked="long or not long")
    assert done.returncode == 0, done.stdout + done.stderr
