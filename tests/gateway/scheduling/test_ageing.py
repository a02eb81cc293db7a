"""Classes whose oldest has waited for long get turns, and no more than those."""

from gateway.domain.generation import Generation
from gateway.domain.tenancy import Priority
from gateway.scheduling.queue import AGED_S, RequestQueue
from tests.gateway.callers import batch, interactive, lost


def test_an_aged_class_gets_one_turn_in_eight_while_a_better_one_always_waits() -> None:
    queue, old = RequestQueue(), [batch() for _ in range(9)]
    for one in old:
        queue.append(one)
    order: list[Generation] = []
    for _ in range(48):
        queue.append(interactive(arrived_at=AGED_S))
        head = queue.head(AGED_S)
        assert head is not None
        queue.send(head, AGED_S)
        order.append(head)

    assert [index for index, one in enumerate(order) if one in old] == [7, 15, 23, 31, 39, 47]
    assert [one.is_protected for one in order] == [one in old for one in order]


def test_a_large_one_that_is_let_through_by_its_age_keeps_its_place_aside_and_is_the_only_one() -> None:
    queue, large = RequestQueue(), batch(candidate_count=4)
    queue.append(large)
    queue.append(batch())
    while (head := queue.head(AGED_S)) is not large or len(queue) < 3:
        if head is not large:
            assert head is not None
            queue.send(head, AGED_S)
        queue.append(interactive(arrived_at=AGED_S))

    queue.set_aside(large, AGED_S)
    queue.reconsider_aside()
    assert queue.aside is large
    head = queue.head(AGED_S)
    assert head is not None
    assert head.caller.priority is Priority.INTERACTIVE
    queue.restore(lost(batch()))
    assert queue.aside is large

    queue.send(large, AGED_S)
    assert large.is_protected
    assert queue.head(AGED_S) is head


def test_a_class_that_has_not_aged_gets_no_turn() -> None:
    queue = RequestQueue()
    queue.append(batch())
    for _ in range(40):
        queue.append(interactive())
        head = queue.head(AGED_S - 0.1)
        assert head is not None
        assert head.caller.priority is Priority.INTERACTIVE
        queue.send(head, AGED_S - 0.1)
