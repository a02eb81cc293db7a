"""Workers that fail far more than the others are left out for a while; never all of them."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.outliers import EjectionPolicy, OutlierDetector

PAIR = ("a", "b")
FEW = ("a", "b", "c", "d", "e")


def ruined(ejection: OutlierDetector, worker: str, now: float, count: int = 10) -> None:
    ejection.begun(worker, count, now)
    ejection.failed(worker, count, now)


def good(ejection: OutlierDetector, worker: str, now: float, count: int = 100) -> None:
    ejection.begun(worker, count, now)


def back_at(ejection: OutlierDetector, worker: str, now: float) -> float:
    """When an ejected worker is in again, to the tenth of a second."""
    times = (now + tenths / 10 for tenths in range(10_000))
    return next(time for time in times if worker not in ejection.ejected(PAIR, time))


def test_a_worker_that_fails_is_out_and_the_others_are_not() -> None:
    ejection = OutlierDetector()
    for worker in FEW:
        good(ejection, worker, 0.0)
    ruined(ejection, "c", 1.0, count=200)

    assert ejection.ejected(FEW, 1.0) == {"c"}


def test_a_few_failures_say_nothing() -> None:
    ejection = OutlierDetector()
    ejection.failed("a", 4, 0.0)
    assert ejection.ejected(PAIR, 0.0) == frozenset()

    ejection.failed("a", 1, 0.0)
    assert ejection.ejected(PAIR, 0.0) == {"a"}


def test_failures_among_many_good_ones_say_nothing() -> None:
    ejection = OutlierDetector()
    good(ejection, "a", 0.0, count=1000)
    ejection.failed("a", 100, 0.0)

    assert ejection.ejected(PAIR, 0.0) == frozenset()


def test_what_fails_everywhere_ejects_nobody() -> None:
    ejection = OutlierDetector()
    for worker in FEW:
        ruined(ejection, worker, 0.0, count=50)

    assert ejection.ejected(FEW, 0.0) == frozenset()


def test_what_fails_nearly_everywhere_ejects_nobody_either() -> None:
    ejection = OutlierDetector()
    for worker in FEW[1:]:
        ruined(ejection, worker, 0.0, count=50)
    good(ejection, FEW[0], 0.0)

    assert ejection.ejected(FEW, 0.0) == frozenset()


def test_old_failures_are_forgotten() -> None:
    policy = EjectionPolicy()
    ejection = OutlierDetector(policy)
    for minute in range(20):
        ejection.failed("a", 2, minute * policy.half_life_s)
        assert ejection.ejected(PAIR, minute * policy.half_life_s) == frozenset()


def test_an_ejection_grows_each_time_up_to_the_longest_and_starts_afresh_after_a_good_while() -> None:
    ejection, now, durations = OutlierDetector(), 0.0, list[float]()
    for _ in range(8):
        ruined(ejection, "a", now)
        end = back_at(ejection, "a", now)
        durations.append(round(end - now, 1))
        now = end + 1.0
    assert durations == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]

    now += EjectionPolicy().reset_after_s
    ruined(ejection, "a", now)
    assert round(back_at(ejection, "a", now) - now, 1) == 10.0


def test_a_worker_that_is_back_has_a_clean_record() -> None:
    ejection = OutlierDetector()
    ruined(ejection, "a", 0.0)
    end = back_at(ejection, "a", 0.0)
    ejection.failed("a", 1, end)

    assert ejection.ejected(PAIR, end) == frozenset()


def test_the_only_worker_stays_however_it_fails() -> None:
    ejection = OutlierDetector()
    ruined(ejection, "a", 0.0, count=1000)

    assert ejection.ejected(("a",), 0.0) == frozenset()


def test_an_ejected_worker_is_needed_again_when_the_others_are_gone() -> None:
    ejection = OutlierDetector()
    ruined(ejection, "a", 0.0)
    assert ejection.ejected(PAIR, 0.0) == {"a"}

    assert ejection.ejected(("a",), 1.0) == frozenset()
    assert ejection.ejected(PAIR, 1.0) == {"a"}


def test_of_two_outliers_the_worse_one_goes_if_only_one_may() -> None:
    ejection = OutlierDetector()
    good(ejection, "a", 0.0, count=1000)
    ruined(ejection, "b", 0.0, count=6)
    ejection.failed("c", 60, 0.0)

    assert ejection.ejected(("a", "b", "c"), 0.0) == {"c"}


def test_two_bad_ones_of_many_do_not_hide_each_other() -> None:
    ejection = OutlierDetector()
    for worker in FEW:
        good(ejection, worker, 0.0, count=10)
    ruined(ejection, "b", 0.0, count=100)
    ruined(ejection, "d", 0.0, count=60)

    assert ejection.ejected(FEW, 0.0) == {"b", "d"}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("begun", "failed")),
        st.sampled_from(FEW),
        st.integers(1, 50),
        st.floats(0.0, 30.0),
        st.sets(st.sampled_from(FEW)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_never_more_than_half_of_those_that_are_there_are_out(
    events: list[tuple[str, str, int, float, set[str]]],
) -> None:
    ejection, now = OutlierDetector(), 0.0
    for kind, worker, count, passed, present in events:
        now += passed
        (ejection.begun if kind == "begun" else ejection.failed)(worker, count, now)
        out = ejection.ejected(sorted(present), now)
        assert out <= present
        assert len(out) <= len(present) // 2


@given(EVENTS)
def test_asking_again_at_the_same_time_changes_nothing(
    events: list[tuple[str, str, int, float, set[str]]],
) -> None:
    ejection, now = OutlierDetector(), 0.0
    for kind, worker, count, passed, present in events:
        now += passed
        (ejection.begun if kind == "begun" else ejection.failed)(worker, count, now)
        assert ejection.ejected(sorted(present), now) == ejection.ejected(sorted(present, reverse=True), now)


@given(st.integers(2, 5), st.integers(5, 100), st.integers(20, 400))
def test_whoever_ruins_everything_beside_good_ones_is_out_within_five_failures_and_only_that_one(
    count: int, failures: int, begun: int
) -> None:
    ejection, workers = OutlierDetector(), FEW[:count]
    for worker in workers[1:]:
        good(ejection, worker, 0.0, begun)
    ruined(ejection, workers[0], 0.0, failures)

    assert ejection.ejected(workers, 0.0) == {workers[0]}
