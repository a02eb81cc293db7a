"""Processors that make tokens likelier or less likely. All change the scores in place.

Numbers that would leave the range of float32 are kept at its ends, so that no setting makes an infinity or a NaN.
"""

import math

import torch
from torch import Tensor

from ..memory.copies import on_device, to_device
from .entries import LARGEST, entries
from .history import output_tokens, seen_tokens
from .rows import Row

_LARGEST_PENALTY = 1e30
_LARGEST_EXPONENT = 88.0
"""e to this power is still a float32."""


def add_bias(scores: Tensor, rows: list[Row]) -> None:
    """Adds each row's bias to the scores of single tokens."""
    biases = [row.kept(bias) for row in rows]
    biased = entries(scores, rows, [ids for ids, _ in biases])
    scores.view(-1).index_add_(0, biased.flat, torch.cat([values for _, values in biases]))


def bias(row: Row) -> tuple[Tensor, Tensor]:
    """Returns the biased ids, and float32 what is added to each."""
    biases = dict(row.parameters.logit_bias)
    ids = row.inside(biases)
    values = [biases[token] for token in ids]
    return row.ids(ids), on_device(values, row.device, torch.float32)


def penalize_repetition(scores: Tensor, rows: list[Row]) -> None:
    """Divides positive and multiplies negative scores of tokens in prompt and output (Keskar et al. 2019, CTRL)."""
    seen = entries(scores, rows, [torch.cat(seen_tokens(row)) for row in rows])
    penalty = seen.spread([bounded_penalty(row.parameters.repetition_penalty) for row in rows])
    old = scores.view(-1)[seen.flat]
    new = torch.where(old < 0, old * penalty, old / penalty)
    scores.view(-1)[seen.flat] = _within_range(new, old)


def bounded_penalty(penalty: float) -> float:
    """Returns a repetition penalty that float32 holds, and its inverse, too."""
    return min(max(penalty, 1 / _LARGEST_PENALTY), _LARGEST_PENALTY)


def penalize_output(scores: Tensor, rows: list[Row]) -> None:
    """Subtracts, from each token of the output, the presence penalty, and the frequency penalty as often as it came."""
    counts = [output_tokens(row) for row in rows]
    used = entries(scores, rows, [each.ids for each in counts])
    frequency = used.spread([row.parameters.frequency_penalty for row in rows])
    presence = used.spread([row.parameters.presence_penalty for row in rows])
    often = to_device(torch.cat([each.counts for each in counts]), scores.device)
    scores.view(-1).index_add_(0, used.flat, -(frequency * often + presence))


def favour_end(scores: Tensor, rows: list[Row]) -> None:
    """Lets the scores of the tokens that end the model's sequences grow exponentially with the output's length."""
    ends = entries(scores, rows, [row.kept(eos_ids) for row in rows])
    growths = ends.spread([growth(row) for row in rows])
    old = scores.view(-1)[ends.flat]
    scores.view(-1)[ends.flat] = _within_range(old + old.abs() * growths, old)


def eos_ids(row: Row) -> Tensor:
    """Returns the ids that end the model's sequences."""
    return row.ids(row.parameters.eos_token_ids)


def growth(row: Row) -> float:
    """Returns by what share of itself the score of an end grows at this step."""
    start, factor = row.parameters.exponential_decay or (0, 1.0)
    steps = len(row.sequence.output) - start
    most = _LARGEST_EXPONENT / math.log(factor) if factor > 1 else math.inf
    return math.pow(factor, min(steps, most)) - 1


def _within_range(new: Tensor, old: Tensor) -> Tensor:
    """Returns the new scores within float32's range; what was masked stays so."""
    return torch.where(old.isfinite(), new.clamp(-LARGEST, LARGEST), old)
