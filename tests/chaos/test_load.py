"""Open loops do not wait for answers, closed ones do; what they saw is judged right."""

import asyncio
import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.latency import Served
from tests.chaos import fairness_scene, load, overload_scene
from tests.chaos.load import COMPLETE, Timed, arrivals, closed_loop, open_loop


def timed(
    *token_times: float, at: float = 0.0, ended_at: float = 0.0, count: int = 0, outcome: str = COMPLETE
) -> Timed:
    """A call that got all of what it asked for, unless `count` says otherwise."""
    served = Served(at, count or len(token_times), list(token_times))
    return Timed(served, ended_at, outcome)


@given(st.integers(0, 2**32))
def test_arrivals_follow_from_the_seed_and_come_at_their_rate(seed: int) -> None:
    times = list(arrivals(50, 40, random.Random(seed)))
    assert times == sorted(times) == list(arrivals(50, 40, random.Random(seed)))
    assert all(0 < time < 40 for time in times)
    assert 2000 - 7 * 45 < len(times) < 2000 + 7 * 45  # seven standard deviations of 45


async def test_an_open_loop_makes_calls_while_others_run() -> None:
    count, all_there = 5, asyncio.Event()
    running = itertools.count(1)

    async def begin(due: float) -> Timed:
        if next(running) == count:
            all_there.set()
        await all_there.wait()
        return timed(at=due)

    calls = await open_loop(begin, [0.0] * count)
    assert len(calls) == count


async def test_a_call_of_an_open_loop_that_is_made_late_counts_from_when_it_was_due() -> None:
    async def begin(due: float) -> Timed:
        return timed(at=due)

    calls = await open_loop(begin, [0.002, 0.001])
    assert calls[0].served.arrived_at - calls[1].served.arrived_at == pytest.approx(0.001)


async def test_a_caller_of_a_closed_loop_has_one_call_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "now", itertools.count().__next__)  # each look at the clock takes a second
    running, most = 0, 0

    async def begin(due: float) -> Timed:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return timed(at=due)

    calls = await closed_loop(begin, 3, 30)
    assert most == 3
    assert len(calls) == 29


@pytest.mark.parametrize(
    ("call", "is_good", "is_refused"),
    [
        (timed(1.0, 1.1), True, False),
        (timed(2.1, 2.2), False, False),
        (timed(1.0, 1.2), False, False),
        (timed(1.0, count=2, outcome="deadline"), False, False),
        (timed(1.0, count=2, outcome="DEADLINE_EXCEEDED"), False, False),
        (timed(count=2, outcome="QUEUE_FULL"), False, True),
    ],
)
def test_what_is_late_slow_or_not_whole_is_not_good(call: Timed, *, is_good: bool, is_refused: bool) -> None:
    assert (call.is_good, call.is_refused) == (is_good, is_refused)


def test_goodput_is_of_calls_that_are_good_and_end_in_time() -> None:
    calls = [timed(1.0, ended_at=at) for at in (0.9, 1.0, 2.9, 3.0)] + [timed(9.0, ended_at=2.0)]
    assert overload_scene.good_rate(calls, 1.0, 3.0) == pytest.approx(1.0)


def test_memory_has_grown_by_the_last_part_over_the_second() -> None:
    assert overload_scene.grown([0, 50, 10, 20, 90, 90, 90, 90, 15, 25]) == 5
    assert overload_scene.grown([1]) == 0


GOOD = overload_scene.Overload(
    peak=10.0,
    goodput=9.0,
    calls=[timed(outcome="QUEUE_FULL", count=1, ended_at=0.02), timed(1.0)],
    memory_bytes=[0] * 5,
    normal=[timed(0.1)],
)


def test_an_overload_that_is_within_the_bar_has_no_problems() -> None:
    assert not [*GOOD.problems(), *GOOD.misses()]


@pytest.mark.parametrize(
    ("planted", "problem"),
    [
        ({"goodput": 8.9}, "goodput was"),
        ({"calls": [timed(1.0)]}, "nothing was refused"),
        ({"calls": [timed(outcome="QUEUE_FULL", count=1, ended_at=0.021)]}, "p99 of refusals"),
        ({"calls": [*GOOD.calls, timed(outcome="INTERNAL", count=1)]}, "ended with INTERNAL"),
        ({"memory_bytes": [0] * 4 + [21 << 20]}, "has grown"),
        ({"normal": [timed(outcome="QUEUE_FULL", count=1)]}, "a first token took"),
    ],
)
def test_each_part_of_the_bar_is_looked_at(planted: dict[str, Any], problem: str) -> None:
    seen = replace(GOOD, **planted)
    (found,) = [*seen.problems(), *seen.misses()]
    assert problem in found


def test_only_tokens_of_the_window_count() -> None:
    assert fairness_scene.token_count([timed(0.9, 1.0, 1.9, 2.0), timed(1.5)], 1.0, 2.0) == 3


@pytest.mark.parametrize(("count", "names"), [(89, ["b"]), (90, []), (110, []), (111, ["b"])])
def test_a_share_may_be_a_tenth_off(count: int, names: list[str]) -> None:
    counts = {"a": 800 - count, "b": count}
    found = list(fairness_scene.off(counts, {"a": 7, "b": 1}))
    assert [line.split()[0] for line in found] == names


@pytest.mark.parametrize(("flooded", "is_slower"), [([1.5] * 9, False), ([1.6] * 9, True), ([], True)])
def test_others_may_wait_half_as_long_again(flooded: list[float], *, is_slower: bool) -> None:
    assert bool(list(fairness_scene.slower([1.0] * 9, flooded))) == is_slower
