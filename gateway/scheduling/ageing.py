"""Lets those through, now and then, that better classes would keep waiting for ever. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from .line import W

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lane import Lane

AGED_S = 10.0
"""How long the oldest of a class waits before the class gets turns, in seconds."""

TURN = 8
"""Of so many generations that are sent, one is from a class that has aged."""


class Ageing(Generic[W]):
    """Counts what goes past a class whose oldest has waited for long: each `TURN`-th one is then from there.

    So nothing starves, and a large backlog of a lower class takes but a small share of what a better one needs.

    Args:
        lanes: The classes, best first.
    """

    def __init__(self, lanes: Sequence[Lane[W]]) -> None:
        self._lanes = lanes
        self._passed = 0

    def due(self, now: float) -> Lane[W] | None:
        """The class whose turn it is; None for the best one with anything in it."""
        if self._passed < TURN - 1:
            return None
        best = next((index for index, lane in enumerate(self._lanes) if len(lane)), len(self._lanes))
        return min(self._aged_behind(best, now), key=_arrival, default=None)

    def sent(self, index: int, now: float, *, by_turn: bool) -> None:
        """One leaves the class at `index` for a worker, because it was its turn or because nothing better waits."""
        if by_turn or not self._aged_behind(index, now):
            self._passed = 0
        else:
            self._passed = min(self._passed + 1, TURN - 1)

    def _aged_behind(self, index: int, now: float) -> list[Lane[W]]:
        return [lane for lane in self._lanes[index + 1 :] if lane.oldest and now - lane.oldest.arrived_at >= AGED_S]


def _arrival(lane: Lane[W]) -> float:
    return lane.oldest.number if lane.oldest else 0
