"""The least loaded worker with room is next."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import WorkerLoad, pick

LOADS = st.lists(
    st.builds(
        WorkerLoad,
        name=st.sampled_from("abcdef"),
        outstanding=st.integers(0, 9),
        limit=st.integers(0, 9),
        served=st.integers(0, 9),
    ),
    max_size=6,
)


@given(LOADS, st.integers(1, 3))
def test_a_worker_is_found_if_and_only_if_one_has_room(loads: list[WorkerLoad], sequence_count: int) -> None:
    picked = pick(loads, sequence_count)

    assert (picked is None) == all(load.outstanding + sequence_count > load.limit for load in loads)
    assert picked is None or picked.outstanding + sequence_count <= picked.limit


def test_work_is_seen_relative_to_the_room() -> None:
    small = WorkerLoad("small", outstanding=2, limit=4, served=0)
    large = WorkerLoad("large", outstanding=3, limit=16, served=9)

    assert pick([small, large], 1) is large


def test_among_equals_the_one_that_served_less_is_next() -> None:
    one = WorkerLoad("one", outstanding=0, limit=8, served=5)
    other = WorkerLoad("other", outstanding=0, limit=8, served=4)

    assert pick([one, other], 1) is other
