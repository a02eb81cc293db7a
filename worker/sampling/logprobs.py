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
    found = Logprobs(logits, tokens, [top] * len(logits) if isinstance(top, int) else top)
    return found.read(found.numbers.tolist())


class Logprobs:
    """What `token_logprobs` returns while it is on the device, to be brought to the host together with other things."""

    def __init__(self, logits: Tensor, tokens: Tensor, tops: Rows[int]) -> None:
        """Takes what `token_logprobs` does."""
        vocabulary = logits.shape[-1]
        self._counts = [min(count, vocabulary) for count in tops]
        most = max(self._counts, default=0)
        # One more than asked for shows whether the last one has an equal that was left out.
        self._places = min(most + 1, vocabulary) if most else 0
        self._logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        chosen = self._logprobs.gather(-1, tokens[:, None])
        higher = (self._logprobs > chosen).sum(dim=-1, keepdim=True)
        parts = [chosen, higher]
        if self._places:
            best = self._logprobs.topk(self._places, dim=-1)
            parts += [best.indices, best.values]
        # A float64 holds every float32 and every index exactly.
        self.numbers = torch.cat([part.double() for part in parts], dim=-1)
        """[rows, any]: for `read`."""

    def read(self, numbers: Rows[Rows[float]]) -> list[TokenLogprob]:
        """Returns the rows, of `numbers` as they are on the host."""
        found = []
        for row, ((logprob, higher, *best), count) in enumerate(zip(numbers, self._counts, strict=True)):
            ids = [int(each) for each in best[: self._places]]
            found.append(TokenLogprob(logprob, int(higher) + 1, self._top(row, ids, best[self._places :], count)))
        return found

    def read_flat(self, numbers: list[float]) -> list[TokenLogprob]:
        """Returns the same of the numbers one behind the other."""
        width = self.numbers.shape[1]
        return self.read([numbers[begin : begin + width] for begin in range(0, len(numbers), width)])

    def _top(self, row: int, ids: list[int], values: list[float], count: int) -> tuple[tuple[int, float], ...]:
        """Returns the first `count` of the best ids and values, of equals those with the lowest ids."""
        if 0 < count < len(ids) and values[count] == values[count - 1]:
            equal = values[count - 1]
            better = [pair for pair in zip(ids, values, strict=True) if pair[1] > equal]
            lowest = (self._logprobs[row] == equal).nonzero()[: count - len(better), 0].tolist()
            pairs = better + [(token, equal) for token in lowest]
        else:
            pairs = list(zip(ids[:count], values[:count], strict=True))
        return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
