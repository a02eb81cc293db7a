"""What can be captured can be let go and captured again; what cannot is refused, and leaves CUDA as it was."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.gpu.graphs import DEVICE, needs_gpu
from worker.runners.cuda.capture.capture import CudaCapture, device_seconds

pytestmark = needs_gpu


def test_graphs_are_captured_anew_after_all_were_let_go() -> None:
    capture = CudaCapture(DEVICE)
    given = torch.ones(4, device=DEVICE)
    for factor in (2.0, 3.0):
        replay = capture(lambda factor=factor: given * factor)  # type: ignore[misc]
        assert replay().tolist() == [factor] * 4
        del replay
        torch.cuda.empty_cache()


@pytest.mark.parametrize("capture", [CudaCapture(DEVICE), device_seconds], ids=["step", "timer"])
def test_work_that_waits_for_the_device_is_refused_before_its_capture_begins(
    capture: Callable[[Callable[[], Tensor]], object],
) -> None:
    given = torch.ones(4, device=DEVICE)
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="synchroniz"):
        capture(lambda: given * given.sum().item())
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
    torch.cuda.empty_cache()  # fails behind a capture that broke off
    assert given.sum().item() == 4
    capture(lambda: 2 * given)
