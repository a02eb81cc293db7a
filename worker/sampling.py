"""Chooses one token for each row, in one vectorized pass with every row's own parameters.

The order is that of transformers' `generate()`: repetition penalty, temperature, top_k, top_p, min_p. A stage that no
row uses is not run. A row's choice depends on its own logits, parameters, history and (seed, token index) alone.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .random_numbers import uniforms
from .sequence import Sequence

_MASKED = float("-inf")
_LEAST_TEMPERATURE = 1e-6
"""Below it the quotients would overflow; at it the likeliest token has all the probability already."""


@dataclass(frozen=True)
class Sampled:
    """One token for each row."""

    tokens: list[int]
    finite: list[bool]
    """False for a row whose logits hold NaN or an infinity; its token means nothing."""


def sample(logits: Tensor, rows: Rows[Sequence]) -> Sampled:
    """Chooses the next token of each row.

    Args:
        logits: [rows, vocabulary], any floating type; not changed.
        rows: the sequences behind the logits' rows.
    """
    scores = logits.float()
    # One reduction: a NaN or an infinity anywhere makes the sum of its row, taken times 0, not a number.
    finite = (scores * 0).sum(dim=-1) == 0
    scores = penalize_repetition(scores, rows)
    tokens = scores.argmax(dim=-1)
    drawn = [index for index, row in enumerate(rows) if row.parameters.do_sample]
    if drawn:
        where = torch.tensor(drawn, device=logits.device)
        tokens[where] = draw(scores[where], [rows[index] for index in drawn])
    return _to_host(tokens, finite)


def _to_host(tokens: Tensor, finite: Tensor) -> Sampled:
    both = torch.stack((tokens, finite.long())).tolist()
    return Sampled(tokens=both[0], finite=[bool(flag) for flag in both[1]])


def penalize_repetition(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Applies each row's repetition penalty to the tokens of its prompt and output (Keskar et al. 2019, CTRL)."""
    penalized = [index for index, row in enumerate(rows) if row.parameters.repetition_penalty != 1.0]
    if not penalized:
        return scores
    where = torch.tensor(penalized, device=scores.device)
    old = scores[where]
    penalty = _column([rows[index].parameters.repetition_penalty for index in penalized], scores)
    seen = torch.stack([_seen(rows[index], scores) for index in penalized])
    new = torch.where(old < 0, old * penalty, old / penalty)
    return scores.index_copy(0, where, torch.where(seen, new, old))


class _Seen:
    """Which tokens of the vocabulary a sequence has, kept up from step to step."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self.mask = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.counted = 0

    def count(self, sequence: Sequence) -> None:
        """Counts in what the sequence has got since the last call."""
        new = sequence.output[self.counted :] if self.counted else sequence.prompt + sequence.output
        self.mask[torch.tensor(new, dtype=torch.long, device=self.mask.device)] = True
        self.counted = len(sequence.output)


# Derived from the sequences, and gone with them.
_masks: WeakKeyDictionary[Sequence, _Seen] = WeakKeyDictionary()


def _seen(sequence: Sequence, scores: Tensor) -> Tensor:
    history = _masks.get(sequence)
    if history is None:
        history = _masks[sequence] = _Seen(scores.shape[-1], scores.device)
    history.count(sequence)
    return history.mask


def draw(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Draws one token for each row from its warped distribution, by inverting the cumulative distribution.

    Args:
        scores: [rows, vocabulary] float32, after the penalties.
        rows: sequences that sample.
    """
    probabilities = warp(scores, rows).softmax(dim=-1).double()
    cumulative = probabilities.cumsum(dim=-1)
    numbers = uniforms([row.parameters.seed for row in rows], [len(row.output) for row in rows])
    targets = torch.from_numpy(numbers).to(scores.device)[:, None] * cumulative[:, -1:]
    # The first token whose cumulative probability is above the target; one of probability 0 never is.
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def warp(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Applies temperature, top_k, top_p and min_p; tokens that are out get minus infinity."""
    parameters = [row.parameters for row in rows]
    scores = scores / _column([max(p.temperature, _LEAST_TEMPERATURE) for p in parameters], scores)
    if any(p.top_k for p in parameters):
        scores = keep_top_k(scores, [p.top_k for p in parameters])
    if any(p.top_p < 1.0 for p in parameters):
        scores = keep_top_p(scores, [p.top_p for p in parameters])
    if any(p.min_p > 0.0 for p in parameters):
        scores = keep_min_p(scores, [p.min_p for p in parameters])
    return scores


def keep_top_k(scores: Tensor, top_k: Rows[int]) -> Tensor:
    """Masks all but the k likeliest tokens of each row (ties with the k-th stay); 0 keeps all."""
    vocabulary = scores.shape[-1]
    kept = [min(k, vocabulary) or vocabulary for k in top_k]
    limited = [k for k in kept if k < vocabulary]
    if not limited:
        return scores
    best = scores.topk(max(limited), dim=-1).values
    index = torch.tensor([min(k, best.shape[-1]) - 1 for k in kept], device=scores.device)
    threshold = best.gather(-1, index[:, None])
    unlimited = torch.tensor([k == vocabulary for k in kept], device=scores.device)[:, None]
    return scores.masked_fill((scores < threshold) & ~unlimited, _MASKED)


def keep_top_p(scores: Tensor, top_p: Rows[float]) -> Tensor:
    """Masks all but the fewest likeliest tokens with probability top_p together (Holtzman et al. 2019); 1 keeps all.

    Only the rows that use it are sorted.
    """
    using = torch.tensor([index for index, p in enumerate(top_p) if p < 1.0], device=scores.device)
    ascending, order = scores[using].sort(dim=-1)
    rest = _column([1.0 - p for p in top_p if p < 1.0], scores)
    out = ascending.softmax(dim=-1).cumsum(dim=-1) <= rest
    out[:, -1] = False
    masked = scores[using].masked_fill(out.scatter(-1, order, out), _MASKED)
    return scores.index_copy(0, using, masked)


def keep_min_p(scores: Tensor, min_p: Rows[float]) -> Tensor:
    """Masks tokens less than min_p times as likely as the likeliest (Nguyen et al. 2024); 0 keeps all."""
    probabilities = scores.softmax(dim=-1)
    threshold = _column(min_p, scores) * probabilities.max(dim=-1, keepdim=True).values
    return scores.masked_fill(probabilities < threshold, _MASKED)


def _column(values: Rows[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
