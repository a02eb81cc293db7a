"""First come, first served; bounded; anybody can leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ServiceError
from gateway.generation import Generation
from gateway.queueing import Queue
from gateway.sequence import Status
from tests.gateway.generations import generation

TEN = [generation() for _ in range(10)]


def drained(queue: Queue) -> list[Generation]:
    order: list[Generation] = []
    while (head := queue.head()) is not None:
        queue.remove(head)
        order.append(head)
    return order


def test_first_come_first_served() -> None:
    queue, arriving = Queue(10), [generation() for _ in range(5)]
    for one in arriving:
        queue.append(one)

    assert drained(queue) == arriving


def test_a_full_queue_refuses_with_quota_and_retry_delay() -> None:
    queue = Queue(1)
    queue.append(generation())

    with pytest.raises(ServiceError) as caught:
        queue.append(generation())

    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.quota
    assert caught.value.retry_after_s
    assert len(queue) == 1


def test_what_a_worker_has_not_taken_goes_to_the_head_above_the_limit() -> None:
    queue, returned, waiting = Queue(1), generation(), generation()
    queue.append(waiting)

    queue.restore(returned)

    assert drained(queue) == [returned, waiting]


@given(st.permutations(range(6)))
def test_what_comes_back_is_in_order_of_age_whoever_lost_it_first(order: list[int]) -> None:
    queue = Queue(10)
    queue.append(TEN[9])
    for index in order:
        queue.restore(TEN[index])

    assert drained(queue) == [*TEN[:6], TEN[9]]


def test_what_is_aside_waits_on_and_is_counted() -> None:
    queue, large, small = Queue(2), generation(candidate_count=4), generation()
    queue.append(large)
    queue.append(small)

    queue.set_aside(large)

    assert queue.aside is large
    assert queue.head() is small
    assert list(queue) == [large, small]
    assert queue.row_count == 5
    with pytest.raises(ServiceError):
        queue.check_room()
    assert queue.remove(large)
    assert queue.aside is None


def test_what_is_aside_goes_back_to_its_place_when_something_older_returns() -> None:
    queue, older, large, small = Queue(8), generation(), generation(candidate_count=4), generation()
    queue.append(large)
    queue.append(small)
    queue.set_aside(large)

    queue.restore(older)

    assert queue.aside is None
    assert drained(queue) == [older, large, small]


def test_rows_that_are_counted_do_not_change_while_their_candidates_end() -> None:
    queue, one = Queue(8), generation(candidate_count=4)
    queue.append(one)
    one.sequences[0].finish(Status.CANCELLED)

    queue.remove(one)

    assert queue.row_count == 0


@given(st.lists(st.integers(0, 9), max_size=20))
def test_whoever_leaves_is_gone_and_the_others_keep_their_order(leaving: list[int]) -> None:
    queue, gone = Queue(10), set[int]()
    for one in TEN:
        queue.append(one)
    for index in leaving:
        assert queue.remove(TEN[index]) == (index not in gone)
        gone.add(index)

    assert drained(queue) == [one for index, one in enumerate(TEN) if index not in gone]
