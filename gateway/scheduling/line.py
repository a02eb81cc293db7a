"""What waits, in an order: generations for a worker, and work for a thread. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..domain.tenancy import Caller

Rank = tuple[float, float]


class Waiting(Protocol):
    """Something of a caller that waits for its turn."""

    @property
    def caller(self) -> Caller:
        """Whose it is."""
        ...

    @property
    def number(self) -> int:
        """Another one for each: smaller for the older."""
        ...

    @property
    def arrived_at(self) -> float:
        """When it arrived, in seconds of the gateway's clock."""
        ...

    @property
    def due(self) -> float:
        """What its urgency is judged by, in seconds of the gateway's clock."""
        ...

    @property
    def attempts(self) -> int:
        """How often it has been begun."""
        ...


W = TypeVar("W", bound=Waiting)


class Line(Generic[W]):
    """What waits, by rank: any of it can leave, found in O(log n) comparisons.

    Args:
        rank: The lowest is first. It is another for each, and does not change while it waits.
    """

    def __init__(self, rank: Callable[[W], Rank]) -> None:
        self._rank = rank
        self._waiting: list[W] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[W]:
        return iter(self._waiting)

    @property
    def first(self) -> W | None:
        return self._waiting[0] if self._waiting else None

    def add(self, one: W) -> None:
        """Lets it stand where its rank says."""
        insort(self._waiting, one, key=self._rank)

    def remove(self, one: W) -> bool:
        """Takes it out, wherever it stands. False if it was not there."""
        index = self.count_before(self._rank(one))
        if index == len(self) or self._waiting[index] is not one:
            return False
        del self._waiting[index]
        return True

    def count_before(self, rank: Rank) -> int:
        """How many stand before such a rank."""
        return bisect_left(self._waiting, rank, key=self._rank)


def age(one: Waiting) -> Rank:
    """Orders by arrival."""
    return 0.0, one.number


def urgency(one: Waiting) -> Rank:
    """Orders by deadline, then by arrival."""
    return one.due, one.number
