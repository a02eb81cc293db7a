"""What is measured of every peer, and what follows from the times of its tokens. Pure."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """Makes the requests of one measurement; prompts are new each time, lest a peer remember them."""
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
    """How many times as fast as the fastest of some peers our engine has to be."""

    figure: Figure
    ratio: float
    peers: tuple[str, ...]


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


def checks(results: Sequence[Result], bars: Iterable[Bar]) -> dict[str, bool]:
    """Returns for each bar whether it is reached; bars whose peers were not measured are left out."""
    found = {}
    for bar in bars:
        ratios = [each.ratio for each in results if each.figure is bar.figure and each.peer in bar.peers and each.pairs]
        if ratios:
            found[f"{bar.figure.name}: at least {bar.ratio} times {' and '.join(bar.peers)}"] = min(ratios) >= bar.ratio
    return found


def _our_row(figure: Figure, results: Sequence[Result]) -> dict[str, object]:
    times = [pair.ours_s for result in results for pair in result.pairs]
    return _cells(OURS, figure, theirs=_median(figure, times))


def _row(result: Result) -> dict[str, object]:
    figure, pairs = result.figure, result.pairs
    return _cells(
        result.peer,
        figure,
        theirs=_median(figure, [pair.theirs_s for pair in pairs]),
        ours=_median(figure, [pair.ours_s for pair in pairs]),
        ratio=result.ratio if pairs else _NOTHING,
        note=result.note,
    )


def _cells(
    peer: str, figure: Figure, *, theirs: object, ours: object = _NOTHING, ratio: object = _NOTHING, note: str = ""
) -> dict[str, object]:
    beside = {f"{OURS} beside it": ours, f"{OURS} is faster by": ratio}
    return {"peer": peer, **figure.size, figure.unit: theirs, **beside, "note": note}


def _median(figure: Figure, times: Sequence[float]) -> object:
    return figure.value(statistics.median(times)) if times else _NOTHING
