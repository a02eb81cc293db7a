"""Times of pieces of work that take turns, so that a machine whose speed drifts favours none of them."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Returns how long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(sides: Sequence[Work], repeats: int) -> list[float]:
    """Returns each side's median time in seconds; the sides take turns, after one run of each that is not counted."""
    for side in sides:
        side()
    taken = [[seconds(side) for side in sides] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*taken, strict=True)]


def in_turn(works: Iterable[Work]) -> Work:
    """Returns one piece of work out of several, done one after the other."""
    parts = list(works)

    def run() -> None:
        for part in parts:
            part()

    return run
