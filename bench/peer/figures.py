"""What is measured of every peer, and what follows from the times of its tokens. Pure."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import truediv
from random import Random
from typing import Literal

from bench.peer.protocol import Request, Served

OURS = "textserve"
_NOTHING = "-"


@dataclass(frozen=True, eq=False)
class Figure:
    """Something that is measured of every peer."""

    title: str
    """Of the table that it stands in."""
    unit: Literal["tokens/s", "ms/step"]
    tokens: int
    """How many tokens `seconds` stand for."""
    requests: Callable[[Random], list[Request]]
    """Makes the requests of one measurement."""
    seconds: Callable[[Served], float]
    """Takes the time that counts out of a measurement."""
    size: Mapping[str, int] = field(default_factory=dict)
    """What tells it from others in its table, for a column of its own."""

    @property
    def name(self) -> str:
        """Returns its title and its size."""
        return ", ".join([self.title, *(f"{count:,} {what}" for what, count in self.size.items())])

    def value(self, seconds: float) -> float:
        """Returns a time in the figure's unit."""
        return self.tokens / seconds if self.unit == "tokens/s" else 1000 * seconds


@dataclass(frozen=True)
class Pair:
    """Two measurements, one right after the other."""

    ours_s: float
    theirs_s: float


@dataclass
class Result:
    """What was measured of a peer."""

    peer: str
    figure: Figure
    pairs: list[Pair] = field(default_factory=list)
    note: str = ""
    """Why it was not measured, or no longer."""

    @property
    def ratio(self) -> float:
        """Returns how many times as fast as the peer our engine is: the median of the pairs' ratios."""
        return statistics.median(pair.theirs_s / pair.ours_s for pair in self.pairs)


@dataclass(frozen=True)
class Bar:
    """How many times as fast as the fastest of some peers our engine has to be, or another peer in its place."""

    figure: Figure
    ratio: float
    peers: tuple[str, ...]
    of: str = OURS
    """Who has to be; both it and the peers are measured beside our engine, whose times stand between them."""

    @property
    def label(self) -> str:
        """Says what is to be reached."""
        whose = "" if self.of == OURS else f"{self.of} "
        return f"{self.figure.name}: {whose}at least {self.ratio} times {' and '.join(self.peers)}"

    def is_reached(self, results: Sequence[Result], rounds: int) -> bool | None:
        """Tells whether it is reached; None if one that it is about was not measured in all rounds."""
        times = {each.peer: [pair.theirs_s / pair.ours_s for pair in each.pairs] for each in results}
        times[OURS] = [1.0] * rounds
        if any(len(times.get(name, [])) < rounds for name in (*self.peers, self.of)):
            return None
        ratios: list[float] = [statistics.median(map(truediv, times[peer], times[self.of])) for peer in self.peers]
        return min(ratios) >= self.ratio


def step_seconds(served: Served, rows: int) -> float:
    """Returns the median time in which as many tokens arrive as there are rows.

    That is a step where all rows get a token at once, and it has the same meaning where they do not.
    """
    times = sorted(at for request in served.arrivals for at in request)
    return statistics.median(later - at for at, later in zip(times, times[rows:], strict=False))


def tables(results: Sequence[Result]) -> dict[str, list[dict[str, object]]]:
    """Returns tables by title; in each, for each figure, our engine's row and one for each peer, measured or not."""
    found: dict[str, list[dict[str, object]]] = {}
    for figure in dict.fromkeys(result.figure for result in results):
        of_figure = [result for result in results if result.figure is figure]
        rows = [_our_row(figure, of_figure), *(_row(result) for result in of_figure)]
        found.setdefault(figure.title, []).extend(rows)
    return found


def checks(results: Sequence[Result], bars: Iterable[Bar], rounds: int) -> dict[str, bool | None]:
    """Returns for each bar about peers that were asked for whether it is reached; None: it was not measured."""
    asked = {OURS, *(each.peer for each in results)}
    return {
        bar.label: bar.is_reached([each for each in results if each.figure is bar.figure], rounds)
        for bar in bars
        if asked.issuperset((*bar.peers, bar.of))
    }


def _our_row(figure: Figure, results: Sequence[Result]) -> dict[str, object]:
    times = [pair.ours_s for result in results for pair in result.pairs]
    return _cells(OURS, figure, value=_median(figure, times))


def _row(result: Result) -> dict[str, object]:
    figure, pairs = result.figure, result.pairs
    return _cells(
        result.peer,
        figure,
        value=_median(figure, [pair.theirs_s for pair in pairs]),
        ours=_median(figure, [pair.ours_s for pair in pairs]),
        ratio=result.ratio if pairs else _NOTHING,
        note=result.note,
    )


def _cells(
    peer: str, figure: Figure, *, value: object, ours: object = _NOTHING, ratio: object = _NOTHING, note: str = ""
) -> dict[str, object]:
    beside = {f"{OURS} beside it": ours, f"{OURS} is faster by": ratio}
    return {"peer": peer, **figure.size, figure.unit: value, **beside, "note": note}


def _median(figure: Figure, times: Sequence[float]) -> object:
    return figure.value(statistics.median(times)) if times else _NOTHING
