"""What the memory of a model's layers needs, and how many tokens and rows a budget holds."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from .available import available_bytes
from .layout import Layout, bytes_per_row, bytes_per_token
from .plan import Room, divided

_GPU_SHARE, _CPU_SHARE = 0.8, 0.25


def budget(layouts: Sequence[Layout], *, gib: float, share: float) -> int:
    """Returns how many bytes the layers' memory may take.

    Args:
        layouts: what each layer keeps, and on which device.
        gib: the budget, in GiB; 0: a share of what is free.
        share: that share, above 0, at most 1; 0: 80 % on a GPU, 25 % on a CPU. On several devices none is overrun.
    """
    if gib:
        return int(gib * 2**30)
    needs: dict[torch.device, int] = defaultdict(int)
    for layout in layouts:
        for shape in (layout.tokens, *layout.states):
            if shape is not None:
                needs[shape.device] += shape.bytes
    total = sum(needs.values())
    return min(int((share or _share(device)) * free_bytes(device) * total / need) for device, need in needs.items())


def free_bytes(device: torch.device) -> int:
    """Returns how much memory a device has free; on a CPU, how much this process may still take."""
    if device.type != "cuda":
        return available_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, and of no tensor
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def _share(device: torch.device) -> float:
    return _GPU_SHARE if device.type == "cuda" else _CPU_SHARE


def divide(layouts: Sequence[Layout], *, budget: int, max_rows: int, model_context: int) -> Room:
    """Divides a budget in bytes into tokens and rows of a model's layers. Raises as `divided`."""
    row, token = bytes_per_row(layouts), bytes_per_token(layouts)
    return divided(token, row, budget=budget, max_rows=max_rows, model_context=model_context)
