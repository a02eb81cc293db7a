"""What the memory of a model's layers needs, and how many tokens and rows a budget holds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..domain.refusal import UnsupportedModelError
from .available import available_bytes
from .layout import Layout, bytes_per_row, bytes_per_token

_LEAST_CONTEXT = 64
_GPU_SHARE, _CPU_SHARE = 0.8, 0.25


@dataclass(frozen=True)
class Room:
    """How the memory is divided."""

    tokens: int
    """Tokens of the running batch's pool: at least 1.5 contexts, at most that for each row."""
    group_tokens: int
    """Tokens of a prefill group: one longest prompt."""
    max_rows: int
    """Most rows of the batch, and of a group."""
    context_length: int
    """Most tokens of one sequence."""
    bytes_total: int
    """Memory of the batch and of the prefill group."""


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
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_bytes()


def _share(device: torch.device) -> float:
    return _GPU_SHARE if device.type == "cuda" else _CPU_SHARE


def divide(layouts: Sequence[Layout], *, budget: int, max_rows: int, model_context: int) -> Room:
    """Divides a budget in bytes into tokens and rows.

    One part holds the running batch, the other the prefill group. States of recurrent layers, which each row of either
    has, take at most half of the budget, and fewer rows are served if that is not enough. The tokens of the batch are
    as many as are left; if that is less than 1.5 contexts beside a group of one, the context is cut.

    Raises UnsupportedModelError if not even a context of 64 tokens, or one row, fits.
    """
    row, token = bytes_per_row(layouts), bytes_per_token(layouts)
    for_states = min(2 * max_rows * row, budget // 2 if token else budget)
    rows = for_states // (2 * row) if row else max_rows
    tokens = (budget - for_states) // token if token else _whole(model_context, max_rows)
    context = min(model_context, _longest_context(tokens))
    if rows < 1 or context < min(_LEAST_CONTEXT, model_context):
        raise UnsupportedModelError(
            f"{budget:,} bytes hold {tokens:,} tokens and the states of {rows} sequences, "
            "too few for one; give more --memory-gib"
        )
    pool = min(tokens - context, rows * _slack(context))
    return Room(
        tokens=pool,
        group_tokens=context,
        max_rows=rows,
        context_length=context,
        bytes_total=(pool + context) * token + 2 * rows * row,
    )


def _slack(context: int) -> int:
    """Returns 1.5 contexts: with fewer columns than that, the window would slide too often."""
    return context + -(-context // 2)


def _whole(context: int, rows: int) -> int:
    return rows * _slack(context) + context


def _longest_context(tokens: int) -> int:
    """Returns the longest context of which 1.5 and a group of one are in so many tokens."""
    context = tokens * 2 // 5
    return context if _whole(context, 1) <= tokens else context - 1
