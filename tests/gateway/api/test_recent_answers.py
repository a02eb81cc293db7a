"""Answers are kept for a while, and never more of them than there is room for."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.idempotency import OVERHEAD_BYTES, CallKey, RecentAnswers

KEY = CallKey("tenant", "request")
ENTRY = OVERHEAD_BYTES + 13


def kept(answers: RecentAnswers, key: CallKey, now: float) -> bytes | None:
    found = answers.get(key, now)
    return found.answer if found else None


def test_an_answer_is_kept_for_its_window_and_no_longer() -> None:
    answers = RecentAnswers(window_s=60.0, limit_bytes=10_000)
    answers.put(KEY, b"", b"answer", 100.0)

    assert kept(answers, KEY, 159.9) == b"answer"
    assert kept(answers, KEY, 160.0) is None
    assert (len(answers), answers.size_bytes) == (0, 0)


def test_a_name_is_one_of_its_tenant() -> None:
    answers = RecentAnswers(window_s=60.0, limit_bytes=10_000)
    answers.put(KEY, b"", b"answer", 0.0)

    assert kept(answers, CallKey("another", "request"), 0.0) is None
    assert kept(answers, CallKey("tenant", "another"), 0.0) is None
    assert kept(answers, CallKey("tenantr", "equest"), 0.0) is None


def test_the_newest_of_a_name_counts_and_counts_once() -> None:
    answers = RecentAnswers(window_s=60.0, limit_bytes=10_000)
    answers.put(KEY, b"", b"first", 0.0)
    answers.put(KEY, b"", b"second", 30.0)

    assert kept(answers, KEY, 80.0) == b"second"
    assert answers.size_bytes == ENTRY + len(b"second")


def test_one_that_is_larger_than_all_room_is_not_kept_and_drives_nobody_out() -> None:
    answers = RecentAnswers(window_s=60.0, limit_bytes=ENTRY + 100)
    answers.put(KEY, b"", b"x" * 100, 0.0)
    answers.put(CallKey("tenant", "another"), b"", b"x" * 101, 0.0)

    assert kept(answers, KEY, 0.0) == b"x" * 100
    assert len(answers) == 1


PUTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4000), st.floats(0.0, 40.0)), min_size=1, max_size=60)


@given(PUTS, st.integers(1_000, 20_000))
def test_what_is_kept_fits_and_the_oldest_give_way(puts: list[tuple[int, int, float]], limit: int) -> None:
    answers, now = RecentAnswers(window_s=60.0, limit_bytes=limit), 0.0
    expected: list[tuple[int, int, float]] = []
    """Name, bytes and time of what is to be there, oldest first."""
    for name, size, passed in puts:
        now += passed
        cost = size + OVERHEAD_BYTES + 2
        answers.put(CallKey("t", str(name)), b"", bytes([name]) * size, now)

        expected = [each for each in expected if each[0] != name and now - each[2] < 60.0]
        while cost <= limit and sum(each[1] for each in expected) + cost > limit:
            expected.pop(0)
        expected += [(name, cost, now)] * (cost <= limit)
        assert [each for each in range(10) if kept(answers, CallKey("t", str(each)), now) is not None] == sorted(
            each[0] for each in expected
        )
        assert answers.size_bytes == sum(each[1] for each in expected) <= limit
