"""From the host to a device, without waiting for what the device is at.

CUDA copies from ordinary host memory when all that was launched before is done, and the host waits until then: one
such copy a step puts Python and the device one behind the other. A copy from pinned memory is launched like a kernel.
torch keeps pinned memory that was let go, and gives it out again only when the copies from it are done.
"""

from typing import Any

import torch
from torch import Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the host on a device."""
    if device.type != "cuda" or not host.numel():
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:  # noqa: ANN401 - as torch.tensor takes it
    """Returns numbers, or nested lists of them, as a tensor on a device."""
    return to_device(torch.tensor(values, dtype=dtype), device)


def fill(target: Tensor, host: Tensor) -> None:
    """Copies a tensor of the host into one that stays where it is."""
    if target.device.type == "cuda":
        target.copy_(host.pin_memory(), non_blocking=True)
    else:
        target.copy_(host)
