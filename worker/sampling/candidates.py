"""The tokens that are worth sorting: on a processor, sorting whole vocabularies is by far the dearest of all."""

from collections.abc import Callable

from torch import Tensor

from .entries import MASKED
from .rows import Row


class Candidates:
    """Some tokens of a row, moved together in the order of their ids; or, of several rows, all tokens."""

    def __init__(self, possible: Tensor) -> None:
        """Takes which tokens are candidates, as [rows, vocabulary] of booleans.

        All are with several rows, and in a row without any: one that is masked whole, or holds NaN.
        """
        ids = possible[0].nonzero()[:, 0] if len(possible) == 1 else None
        self._ids = None if ids is None or not len(ids) else ids

    def take(self, values: Tensor) -> Tensor:
        """Returns [rows, candidates]: the candidates' values of [rows, vocabulary]."""
        return values if self._ids is None else values[:, self._ids]

    def keep(self, scores: Tensor, kept: Tensor) -> None:
        """Masks in scores [rows, vocabulary] all but the candidates that `kept` [rows, candidates] says."""
        if self._ids is None:
            scores.masked_fill_(~kept, MASKED)
            return
        ids = self._ids[kept[0]]
        values = scores[:, ids]
        scores.fill_(MASKED)
        scores[:, ids] = values


def row_by_row(warp: Callable[[Tensor, list[Row]], None]) -> Callable[[Tensor, list[Row]], None]:
    """Returns a warper that sorts, so that on a processor each row pays for its own k or few candidates only.

    An accelerator works on all rows at once, and sorts whole vocabularies: that is cheap there, and to count the
    candidates would stall it.
    """

    def apply(scores: Tensor, rows: list[Row]) -> None:
        if scores.device.type != "cpu":
            warp(scores, rows)
            return
        for row, alone in zip(rows, scores.split(1), strict=True):
            warp(alone, [row])

    return apply
