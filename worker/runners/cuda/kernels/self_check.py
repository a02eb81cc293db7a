"""Whether a captured step computes what the model does: nothing fast is trusted before it was seen to agree.

A kernel that is right on one card can be wrong on another. Logits, and the keys and values that a step writes, are
compared with the model's own, row by row.
"""

from typing import Any

import torch
from torch import Tensor

from ....memory.batch import Batch

_TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of a row that rounding explains: it grows over the layers of a model."""


def tolerance(dtype: torch.dtype) -> float:
    """Returns the largest `difference` of results in a type that is taken for rounding."""
    return _TOLERANCES[dtype]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Returns the largest |ours - theirs| / |theirs| of any row that is finite in theirs; infinity if ours is not.

    Where no row of theirs is finite it returns 0, which then says nothing.
    """
    ours, theirs = ours.flatten(1).float(), theirs.flatten(1).float()
    finite = theirs.isfinite().all(dim=1)
    if not finite.any():
        return 0.0
    ours, theirs = ours[finite], theirs[finite]
    if not ours.isfinite().all():
        return float("inf")
    error = (ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(error.max())


def newest_column(batch: Batch) -> Tensor:
    """Returns a copy of the keys and values in the column at the window's end, of all layers, [rows, numbers]."""
    end, rows = batch.slab.window.end, len(batch.lengths)
    return torch.cat([buffer[:rows, :, end].flatten(1) for buffer in batch.slab.token_buffers], dim=1)


def eager_logits(model: Any, batch: Batch, tokens: list[int]) -> Tensor:  # noqa: ANN401 - no useful static type
    """Returns what the model's own forward pass makes of a step, [rows, vocabulary]; it writes the column, too."""
    output = model(
        input_ids=torch.tensor(tokens, device=batch.device)[:, None],
        attention_mask=batch.attention_mask(),
        position_ids=batch.position_ids(),
        past_key_values=batch.slab.cache(len(tokens)),
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits
    return logits[:, -1]
