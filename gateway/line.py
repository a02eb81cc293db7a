"""Generations in an order. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .generation import Generation

Rank = tuple[float, float]


class Line:
    """Generations that wait, by rank: any of them can leave, found in O(log n) comparisons.

    Args:
        rank: The lowest is first. It is another for each generation, and does not change while the generation waits.
    """

    def __init__(self, rank: Callable[[Generation], Rank]) -> None:
        self._rank = rank
        self._generations: list[Generation] = []

    def __len__(self) -> int:
        return len(self._generations)

    def __iter__(self) -> Iterator[Generation]:
        return iter(self._generations)

    @property
    def first(self) -> Generation | None:
        return self._generations[0] if self._generations else None

    def add(self, generation: Generation) -> None:
        """Lets it stand where its rank says."""
        insort(self._generations, generation, key=self._rank)

    def remove(self, generation: Generation) -> bool:
        """Takes it out, wherever it stands. False if it was not there."""
        index = self.count_before(self._rank(generation))
        if index == len(self) or self._generations[index] is not generation:
            return False
        del self._generations[index]
        return True

    def count_before(self, rank: Rank) -> int:
        """How many stand before such a rank."""
        return bisect_left(self._generations, rank, key=self._rank)


def age(generation: Generation) -> Rank:
    """Orders by arrival."""
    return 0.0, generation.number


def urgency(generation: Generation) -> Rank:
    """Orders by deadline, then by arrival."""
    return generation.due, generation.number
