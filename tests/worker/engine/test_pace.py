"""When a step counts as hung."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.plan import Chunk, Plan
from worker.domain.sequence import Root, SamplingParameters, Sequence
from worker.engine.engine_thread import Pace, Work

DECODE = Work(decodes=True, prompt_tokens=0)
SECONDS = st.floats(0.001, 20)


def test_before_anything_is_known_the_limit_is_ten_minutes() -> None:
    assert Pace().limit(DECODE) == 600


def test_work_of_an_unknown_kind_has_the_first_limit_though_the_other_kind_is_known() -> None:
    pace = Pace()
    pace.observe(DECODE, 0.5)
    assert pace.limit(DECODE) == 5
    assert pace.limit(Work(decodes=True, prompt_tokens=8)) == 600


def test_the_limit_grows_with_the_tokens_of_a_chunk() -> None:
    pace = Pace()
    pace.observe(DECODE, 0.5)
    pace.observe(Work(decodes=True, prompt_tokens=100), 1.5)
    assert pace.limit(Work(decodes=False, prompt_tokens=1000)) == pytest.approx(105)
    assert pace.limit(Work(decodes=True, prompt_tokens=1000)) == pytest.approx(105)


@given(st.lists(SECONDS, min_size=1, max_size=30))
def test_the_limit_is_never_below_three_seconds_nor_below_ten_times_the_last_step(steps: list[float]) -> None:
    pace = Pace()
    for seconds in steps:
        pace.observe(DECODE, seconds)
    assert pace.limit(DECODE) >= max(3.0, 10 * steps[-1])


def test_one_slow_step_is_forgotten_after_some_hundred_fast_ones() -> None:
    pace = Pace()
    pace.observe(DECODE, 60.0)
    for _ in range(600):
        pace.observe(DECODE, 0.01)
    assert pace.limit(DECODE) == 3.0


def test_the_work_of_a_plan_is_its_decode_and_its_chunk_times_the_rows_of_the_group() -> None:
    row = Sequence(0, [5], SamplingParameters(max_new_tokens=1))
    group = [Root([5] * 10, [row])] * 3
    assert Work.of(Plan(decoding=[row])) == DECODE
    assert Work.of(Plan(chunk=Chunk(4, 10), prompt_tokens=18, reading=group)) == Work(decodes=False, prompt_tokens=18)
    both = Plan(decoding=[row], chunk=Chunk(0, 2), prompt_tokens=2, reading=group[:1])
    assert Work.of(both) == Work(decodes=True, prompt_tokens=2)


def test_a_short_prompt_does_not_hide_a_hang_in_a_long_one() -> None:
    pace = Pace()
    pace.observe(Work(decodes=False, prompt_tokens=1), 0.03)
    assert pace.limit(Work(decodes=False, prompt_tokens=1024)) < 6


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2000)), min_size=1, max_size=40), st.floats(0.001, 60))
def test_steps_of_a_fixed_cost_alone_never_count_as_hung_whatever_they_read(
    steps: list[tuple[bool, int]], seconds: float
) -> None:
    pace = Pace()
    for decodes, prompt_tokens in steps:
        work = Work(decodes=decodes, prompt_tokens=prompt_tokens)
        assert pace.limit(work) > 2 * seconds
        pace.observe(work, seconds)
