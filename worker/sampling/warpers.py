"""Warpers narrow or flatten the distribution that sampling rows draw from. All change the scores in place.

Each takes scores [rows, vocabulary] of exactly the rows that use it, and leaves every row a token.
"""

import torch
from torch import Tensor

from .entries import MASKED, Candidates, column
from .rows import Row

_LEAST_TEMPERATURE = 1e-30
"""A float32. At it the likeliest token has all the probability already."""


def apply_temperature(scores: Tensor, rows: list[Row]) -> None:
    """Divides the scores by each row's temperature.

    Where the quotients would overflow the likeliest token's score is subtracted before, which changes no probability.
    """
    temperature = column([max(row.parameters.temperature, _LEAST_TEMPERATURE) for row in rows], scores)
    best = scores.amax(dim=-1, keepdim=True)
    scores.sub_(best.masked_fill((best / temperature).isfinite(), 0.0)).div_(temperature)


def keep_top_k(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the k likeliest tokens of each row (ties with the k-th stay)."""
    kept = [min(row.parameters.top_k, scores.shape[-1]) for row in rows]
    best = scores.topk(max(kept), dim=-1).values
    threshold = best.gather(-1, torch.tensor(kept, device=scores.device)[:, None] - 1)
    scores.masked_fill_(scores < threshold, MASKED)


def keep_top_p(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the fewest likeliest tokens with probability top_p together (Holtzman et al. 2019)."""
    probabilities = scores.softmax(dim=-1)
    rest = column([1.0 - row.parameters.top_p for row in rows], scores)
    # All tokens that are so unlikely are within half of the rest together; the likeliest is none of them.
    possible = probabilities > rest / (2 * scores.shape[-1])
    candidates = Candidates(possible)
    # Of equals at the border those with the lower ids are out; transformers' own choice among them is arbitrary.
    _, order = candidates.take(scores).sort(dim=-1, stable=True)
    cumulative = candidates.take(probabilities).gather(-1, order).cumsum(dim=-1)
    if cumulative.shape != scores.shape:
        cumulative += probabilities.masked_fill_(possible, 0.0).sum(dim=-1, keepdim=True)
    kept = cumulative > rest
    kept[:, -1:] = True
    candidates.keep(scores, kept.scatter(-1, order, kept))


def keep_min_p(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens less than min_p times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = scores.softmax(dim=-1)
    share = column([row.parameters.min_p for row in rows], scores)
    scores.masked_fill_(probabilities < share * probabilities.amax(dim=-1, keepdim=True), MASKED)


def keep_typical(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the tokens of the most expected information, with mass typical_p together (Meister et al. 2022)."""
    logprobs = scores.log_softmax(dim=-1)
    entropy = -(logprobs * logprobs.exp()).nansum(dim=-1, keepdim=True)
    candidates = Candidates(scores > MASKED)
    distances, order = candidates.take((-logprobs - entropy).abs_()).sort(dim=-1)
    cumulative = candidates.take(scores.softmax(dim=-1)).gather(-1, order).cumsum(dim=-1)
    mass = column([row.parameters.typical_p for row in rows], scores)
    last = (cumulative < mass).sum(dim=-1, keepdim=True).clamp_(max=distances.shape[-1] - 1)
    kept = distances <= distances.gather(-1, last)
    kept[:, :1] = True
    candidates.keep(scores, kept.scatter(-1, order, kept))


def cut_epsilon(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens less likely than epsilon, but for the likeliest (Hewitt et al. 2022)."""
    epsilon = column([row.parameters.epsilon_cutoff for row in rows], scores)
    improbable = scores.softmax(dim=-1) < epsilon
    scores.masked_fill_(improbable & (scores < scores.amax(dim=-1, keepdim=True)), MASKED)
