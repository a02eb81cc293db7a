"""How fast a set of requests could be served: the floor of its prefill and of each step of an ideal schedule.

The prefill reads exactly the prompts' tokens, no padding, at the best rate that the linear layers reach with 64 to 256
tokens at once, by the kernel or by resident 16-bit matrices. The heads of the prefill are left out, as attention is.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.peer.protocol import Request
from bench.step_floor import StepFloor
from bench.workload import prompt_tokens, useful_tokens

PREFILL_ROWS = (64, 128, 256)


@dataclass(frozen=True)
class Rates:
    """What the machine does at the time."""

    step_ms: Mapping[int, float]
    """A decode step's floor for some numbers of rows, the least and the most included."""
    prefill: float
    """Tokens per second."""


@dataclass(frozen=True)
class Possible:
    """The time of a set of requests on the schedule that is taken for ideal.

    Requests in the order of arrival, each on the first free row, all prompts read by themselves. A server that reads
    prompts and decodes in one pass of the weights, or takes the longest first, could be faster.
    """

    prefill_s: float
    decode_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.tokens / (self.prefill_s + self.decode_s)


def measure_rates(floor: StepFloor, max_rows: int, repeats: int) -> Rates:
    """Measures what `possible` needs for at most max_rows rows."""
    counts = [rows for rows in (1, 2, 4, 8, 16, 32, 64) if rows < max_rows] + [max_rows]
    prefill = [rate for rows in PREFILL_ROWS for rate in floor.prefill_rates(rows, max(1, repeats // 5)).values()]
    return Rates(floor.step_ms(counts, repeats), max(prefill))


def possible(requests: Sequence[Request], max_rows: int, rates: Rates) -> Possible:
    """Returns the least time for requests on at most max_rows rows."""
    steps = ideal_schedule([request.output_count for request in requests], max_rows)
    return Possible(
        prefill_s=prompt_tokens(requests) / rates.prefill,
        decode_s=decode_seconds(steps, rates.step_ms),
        tokens=useful_tokens(requests),
    )


def ideal_schedule(output_counts: Iterable[int], max_rows: int) -> list[int]:
    """Returns how many rows each decode step has if a row that ends is replaced at once.

    Requests start in their order, and the first token of each comes from its prefill, which is not a step: one of n
    tokens, at least 1, takes part in n - 1 steps.
    """
    waiting = [count - 1 for count in reversed(list(output_counts)) if count > 1]
    running: list[int] = []
    steps = []
    while waiting or running:
        while waiting and len(running) < max_rows:
            running.append(waiting.pop())
        steps.append(len(running))
        running = [left - 1 for left in running if left > 1]
    return steps


def interpolate(points: Mapping[int, float], at: int) -> float:
    """Returns the value at `at`, on the straight line between the two nearest of the measured points.

    Raises ValueError outside them.
    """
    places = sorted(points)
    if not places or not places[0] <= at <= places[-1]:
        raise ValueError(f"{at} is not among the measured {places}")
    above = bisect_left(places, at)
    high = places[above]
    low = high if high == at else places[above - 1]
    share = (at - low) / (high - low) if high > low else 0.0
    return points[low] + share * (points[high] - points[low])


def decode_seconds(steps: Iterable[int], step_ms: Mapping[int, float]) -> float:
    """Returns how long decode steps of so many rows each take, if a step of `rows` rows takes step_ms[rows]."""
    times = Counter(steps)
    return sum(count * interpolate(step_ms, rows) for rows, count in times.items()) / 1000
