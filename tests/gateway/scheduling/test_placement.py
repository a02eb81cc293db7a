"""The least loaded worker with room is next; the one that can make room soonest is held for what needs much."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.placement import WorkerLoad, pick, preemptible, quietest, roomiest, rows_short

LOADS = st.lists(
    st.builds(
        WorkerLoad,
        name=st.sampled_from("abcdef"),
        outstanding=st.integers(0, 9),
        limit=st.integers(0, 9),
        served=st.integers(0, 9),
        preemptible=st.integers(0, 9),
        preemptible_since=st.floats(0, 9),
    ),
    max_size=6,
)


@given(LOADS, st.integers(1, 3))
def test_a_worker_is_found_if_and_only_if_one_has_room(loads: list[WorkerLoad], row_count: int) -> None:
    picked = pick(loads, row_count)

    fitting = [load for load in loads if load.limit and load.outstanding + min(row_count, load.limit) <= load.limit]
    assert (picked in fitting) == bool(fitting)


def test_a_request_larger_than_a_gateways_share_is_sent_when_the_whole_share_is_free() -> None:
    assert pick([WorkerLoad("one", outstanding=1, limit=5, served=0)], 8) is None
    free = WorkerLoad("one", outstanding=0, limit=5, served=0)
    assert pick([free], 8) is free


def test_work_is_seen_relative_to_the_room() -> None:
    small = WorkerLoad("small", outstanding=2, limit=4, served=0)
    large = WorkerLoad("large", outstanding=3, limit=16, served=9)

    assert pick([small, large], 1) is large


def test_among_equals_the_one_that_served_less_is_next() -> None:
    one = WorkerLoad("one", outstanding=0, limit=8, served=5)
    other = WorkerLoad("other", outstanding=0, limit=8, served=4)

    assert pick([one, other], 1) is other


@given(LOADS)
def test_a_worker_is_held_if_and_only_if_one_takes_rows(loads: list[WorkerLoad]) -> None:
    able = [load for load in loads if load.limit]
    roomy, quiet = roomiest(loads), quietest(loads)

    assert (roomy in able, quiet in able) == (bool(able), bool(able))
    assert roomy is None or roomy.room == max(load.room for load in able)
    assert quiet is None or quiet.outstanding == min(load.outstanding for load in able)


@given(LOADS, st.integers(1, 3))
def test_rows_make_way_if_and_only_if_there_is_room_then_and_as_few_as_possible(
    loads: list[WorkerLoad], row_count: int
) -> None:
    found = preemptible(loads, row_count)

    def afterwards(load: WorkerLoad) -> WorkerLoad:
        return replace(load, outstanding=load.outstanding - load.preemptible)

    enough = [load for load in loads if pick([afterwards(load)], row_count)]
    assert (found in enough) == bool(enough)
    assert found is None or rows_short(found, row_count) == min(rows_short(load, row_count) for load in enough)


def test_among_equals_the_rows_that_began_last_make_way() -> None:
    early = WorkerLoad("early", outstanding=4, limit=4, served=0, preemptible=2, preemptible_since=1.0)
    late = WorkerLoad("late", outstanding=4, limit=4, served=0, preemptible=1, preemptible_since=2.0)

    assert preemptible([early, late], 1) is late
    assert preemptible([early, late], 2) is early
