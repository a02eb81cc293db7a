"""Log-probabilities and ranks of tokens: float32 log-softmax of the logits as the model gave them."""

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from ..domain.outcome import TokenLogprob


def token_logprobs(logits: Tensor, tokens: Tensor, top: int | Rows[int]) -> list[TokenLogprob]:
    """Returns the log-probability and rank of one token for each row.

    Args:
        logits: [rows, vocabulary] of any floating type, unmodified.
        tokens: [rows] token ids.
        top: how many of the likeliest tokens to return beside it, at least 0, for all rows or for each.
    """
    counts = [top] * len(logits) if isinstance(top, int) else [min(count, logits.shape[-1]) for count in top]
    logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
    chosen = logprobs.gather(-1, tokens[:, None])
    ranks = (logprobs > chosen).sum(dim=-1).tolist()
    tops = _tops(logprobs, counts)
    return [
        TokenLogprob(logprob, higher + 1, likeliest)
        for logprob, higher, likeliest in zip(chosen[:, 0].tolist(), ranks, tops, strict=True)
    ]


def _tops(logprobs: Tensor, counts: Rows[int]) -> list[tuple[tuple[int, float], ...]]:
    most = max(counts, default=0)
    if not most:
        return [()] * len(counts)
    # One more than asked for shows whether the last one has an equal that was left out.
    best = logprobs.topk(min(most + 1, logprobs.shape[-1]), dim=-1)
    return [
        _top(logprobs[row], ids, values, count)
        for row, (ids, values, count) in enumerate(
            zip(best.indices.tolist(), best.values.tolist(), counts, strict=True)
        )
    ]


def _top(logprobs: Tensor, ids: list[int], values: list[float], count: int) -> tuple[tuple[int, float], ...]:
    """Returns the first `count` of the best ids and values, of equals those with the lowest ids."""
    if 0 < count < len(ids) and values[count] == values[count - 1]:
        equal = values[count - 1]
        better = [pair for pair in zip(ids, values, strict=True) if pair[1] > equal]
        lowest = (logprobs == equal).nonzero()[: count - len(better), 0].tolist()
        pairs = better + [(token, equal) for token in lowest]
    else:
        pairs = list(zip(ids[:count], values[:count], strict=True))
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
