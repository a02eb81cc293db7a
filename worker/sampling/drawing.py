"""Draws tokens from the distributions that the warpers leave."""

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from ..domain.sequence import Sequence
from ..memory.copies import to_device
from .entries import MASKED
from .random_numbers import uniforms
from .rows import rows_of
from .stages import warpers_due
from .weights import Weights


def warp(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Returns the processed scores of rows that sample with their warpers applied; masked tokens have minus infinity.

    Args:
        scores: [rows, vocabulary] float32; changed in place.
        rows: the sequences behind the scores' rows.
    """
    for stage, using in warpers_due(rows_of(scores, rows)):
        stage.apply(scores, using)
    return scores


def draw(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Draws one token for each row from its warped distribution, by inverting the cumulative distribution.

    Args:
        scores: [rows, vocabulary] float32, processed; changed in place.
        rows: sequences that sample.
    """
    left, tokens = _left(warp(scores, rows))
    cumulative = Weights(left).counts.cumsum(dim=-1)
    numbers = uniforms([row.parameters.seed for row in rows], [len(row.output) for row in rows])
    total = cumulative[:, -1:]
    # Below the total although it may be rounded up as a float64.
    targets = (to_device(torch.from_numpy(numbers), scores.device)[:, None] * total.double()).long().minimum(total - 1)
    # The first token whose cumulative weight is above the target; one without weight never is.
    places = torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=left.shape[1] - 1)
    return places if tokens is None else tokens[places]


def _left(scores: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns the scores [rows, tokens] of tokens that some row may draw, and their ids; None for the ids if all may.

    An accelerator computes with all tokens: that is cheap there, and to count them would stall it.
    """
    if scores.device.type != "cpu":
        return scores, None
    tokens = (scores > MASKED).any(dim=0).nonzero()[:, 0]
    return (scores[:, tokens], tokens) if 0 < len(tokens) < scores.shape[1] else (scores, None)
