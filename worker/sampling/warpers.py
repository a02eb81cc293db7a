"""Warpers narrow or flatten the distribution that sampling rows draw from. All change the scores in place.

Each takes scores [rows, vocabulary] of exactly the rows that use it, and leaves every row a token. Which tokens stay is
defined to the last bit: see `weights`.
"""

from torch import Tensor

from ..memory.copies import on_device
from .entries import MASKED, Candidates, column
from .rows import Row
from .weights import PROBABILITY_UNIT, WEIGHT_UNIT, Weights, as_share, in_units

LEAST_TEMPERATURE = 1e-30
"""A float32. At it the likeliest token has all the probability already."""


def apply_temperature(scores: Tensor, rows: list[Row]) -> None:
    """Divides the scores by each row's temperature.

    Where the quotients would overflow the likeliest token's score is subtracted before, which changes no probability.
    """
    temperature = column([max(row.parameters.temperature, LEAST_TEMPERATURE) for row in rows], scores)
    best = scores.amax(dim=-1, keepdim=True)
    scores.sub_(best.masked_fill((best / temperature).isfinite(), 0.0)).div_(temperature)


def keep_top_k(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the k likeliest tokens of each row (ties with the k-th stay)."""
    kept = [min(row.parameters.top_k, scores.shape[-1]) for row in rows]
    best = scores.topk(max(kept), dim=-1).values
    threshold = best.gather(-1, on_device(kept, scores.device)[:, None] - 1)
    scores.masked_fill_(scores < threshold, MASKED)


def keep_top_p(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the fewest likeliest tokens with probability top_p together (Holtzman et al. 2019)."""
    probabilities = Weights(scores).probabilities
    rest = column([1.0 - row.parameters.top_p for row in rows], scores)
    # All tokens that are so unlikely are within half of the rest together; the likeliest is none of them.
    possible = probabilities > rest / (2 * scores.shape[-1])
    candidates = Candidates(possible)
    # Of equals at the border those with the lower ids are out; transformers' own choice among them is arbitrary.
    _, order = candidates.take(scores).sort(dim=-1, stable=True)
    counts = in_units(candidates.take(probabilities), PROBABILITY_UNIT).gather(-1, order).cumsum_(dim=-1)
    if counts.shape != scores.shape:
        counts += in_units(probabilities.masked_fill_(possible, 0.0), PROBABILITY_UNIT).sum(dim=-1, keepdim=True)
    kept = as_share(counts) > rest
    kept[:, -1:] = True
    candidates.keep(scores, kept.scatter(-1, order, kept))


def keep_min_p(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens less than min_p times as likely as the likeliest (Nguyen et al. 2024)."""
    share = column([row.parameters.min_p for row in rows], scores)
    scores.masked_fill_(Weights(scores).powers < share, MASKED)


def keep_typical(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the tokens of the most expected information, with mass typical_p together (Meister et al. 2022)."""
    weights = Weights(scores)
    log_total = weights.total.log().float()
    # Parts of the entropy are rounded to a unit, too. A weight of 0 has none: it may be 0 times infinity.
    parts = (weights.shifted.double() * weights.counts).nan_to_num_(0.0).round_().long()
    sum_of_parts = parts.sum(dim=-1, keepdim=True).double() * WEIGHT_UNIT
    entropy = (log_total.double() - sum_of_parts / weights.total).float()
    distance = (log_total - weights.shifted - entropy).abs_()
    candidates = Candidates(scores > MASKED)
    distances, order = candidates.take(distance).sort(dim=-1)
    counts = in_units(candidates.take(weights.probabilities), PROBABILITY_UNIT).gather(-1, order).cumsum_(dim=-1)
    mass = column([row.parameters.typical_p for row in rows], scores)
    last = (as_share(counts) < mass).sum(dim=-1, keepdim=True).clamp_(max=distances.shape[-1] - 1)
    kept = distances <= distances.gather(-1, last)
    kept[:, :1] = True
    candidates.keep(scores, kept.scatter(-1, order, kept))


def cut_epsilon(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens less likely than epsilon, but for the likeliest (Hewitt et al. 2022)."""
    epsilon = column([row.parameters.epsilon_cutoff for row in rows], scores)
    improbable = Weights(scores).probabilities < epsilon
    scores.masked_fill_(improbable & (scores < scores.amax(dim=-1, keepdim=True)), MASKED)
