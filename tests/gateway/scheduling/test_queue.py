"""The order of what waits: class, tenants' turns, urgency, arrival. Bounded; anybody can leave."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.generation import HORIZON_S, Generation
from gateway.domain.sequence import Status
from gateway.domain.tenancy import Priority
from gateway.scheduling.queue import NOTHING, QueuedWork, RequestQueue
from tests.gateway.callers import asked, batch, interactive, lost
from tests.gateway.generations import generation

TEN = [generation() for _ in range(10)]
DEADLINES = st.one_of(st.none(), st.floats(1, 3 * HORIZON_S))


def drained(queue: RequestQueue) -> list[Generation]:
    order: list[Generation] = []
    while (head := queue.head(0.0)) is not None:
        queue.remove(head)
        order.append(head)
    return order


def test_first_come_first_served() -> None:
    queue, arriving = RequestQueue(), [generation() for _ in range(5)]
    for one in arriving:
        queue.append(one)

    assert drained(queue) == arriving


@given(st.lists(st.tuples(DEADLINES, st.floats(0, 5)), max_size=12))
def test_a_tenants_own_go_by_deadline_then_by_arrival(figures: list[tuple[float | None, float]]) -> None:
    queue = RequestQueue()
    arriving = [asked(deadline_at=deadline_at, arrived_at=arrived_at) for deadline_at, arrived_at in figures]
    for one in random.Random(1).sample(arriving, len(arriving)):
        queue.append(one)

    def urgency(one: Generation) -> tuple[float, int]:
        horizon = one.arrived_at + HORIZON_S
        return (horizon if one.deadline_at is None else min(one.deadline_at, horizon)), arriving.index(one)

    assert drained(queue) == sorted(arriving, key=urgency)


def test_deadlines_of_others_do_not_go_before_one_without_for_ever() -> None:
    queue, patient, passed = RequestQueue(), asked(), 0
    queue.append(patient)
    queue.append(asked(deadline_at=1.0))
    while (head := queue.head(0.0)) is not patient:
        assert head is not None
        queue.remove(head)
        passed += 1
        queue.append(asked(arrived_at=passed, deadline_at=passed + 1.0))

    assert passed == HORIZON_S - 1


@given(st.permutations([Priority.INTERACTIVE, Priority.DEFAULT, Priority.BATCH] * 2))
def test_a_better_class_is_before_all_of_a_worse_one(classes: list[Priority]) -> None:
    queue = RequestQueue()
    for number, priority in enumerate(classes):
        queue.append(asked("blue" if number % 2 else "green", priority, deadline_at=9.0 - number))

    assert [one.caller.priority for one in drained(queue)] == sorted(classes)


def test_tenants_take_turns_and_each_sends_its_most_urgent_one() -> None:
    queue = RequestQueue()
    late, soon = asked("blue", deadline_at=9.0), asked("blue", deadline_at=5.0)
    other = asked("green", deadline_at=7.0)
    for one in (late, soon, other):
        queue.append(one)

    order: list[Generation] = []
    while head := queue.head(0.0):
        queue.send(head, 0.0)
        order.append(head)

    assert order == [soon, other, late]


def test_what_a_worker_has_not_taken_goes_to_the_head() -> None:
    queue, waiting, returned = RequestQueue(), asked(deadline_at=1.0), lost(generation())
    queue.append(waiting)

    queue.restore(returned)

    assert drained(queue) == [returned, waiting]


def test_what_comes_back_is_at_the_head_of_its_own_class() -> None:
    queue, back, others = RequestQueue(), lost(batch("blue")), [batch("green"), interactive("green")]
    for one in others:
        queue.append(one)

    queue.restore(back)

    assert drained(queue) == [others[1], back, others[0]]


@given(st.permutations(range(6)))
def test_what_comes_back_is_in_order_of_age_whoever_lost_it_first(order: list[int]) -> None:
    queue, first, back = RequestQueue(), generation(), [lost(generation()) for _ in range(6)]
    queue.append(first)
    for index in order:
        queue.restore(back[index])

    assert drained(queue) == [*back, first]


def test_what_is_aside_waits_on_and_is_counted() -> None:
    queue, large, small = RequestQueue(), generation(candidate_count=4), generation()
    queue.append(large)
    queue.append(small)

    queue.set_aside(large, 0.0)

    assert queue.aside is large
    assert queue.head(0.0) is small
    assert list(queue) == [large, small]
    assert queue.work == QueuedWork(generation_count=2, prompt_tokens=4, row_count=5)
    assert queue.remove(large)
    assert queue.aside is None


def test_what_is_aside_goes_back_to_its_place_when_something_returns() -> None:
    queue, older, large, small = RequestQueue(), lost(generation()), generation(candidate_count=4), generation()
    queue.append(large)
    queue.append(small)
    queue.set_aside(large, 0.0)

    queue.restore(older)

    assert queue.aside is None
    assert drained(queue) == [older, large, small]


def test_what_is_aside_keeps_its_place_before_its_equals_and_loses_it_to_a_better_class() -> None:
    queue, large = RequestQueue(), batch(candidate_count=4)
    queue.append(large)
    queue.set_aside(large, 0.0)
    queue.append(batch())
    queue.reconsider_aside()
    assert queue.aside is large

    queue.append(interactive())
    queue.reconsider_aside()

    assert queue.aside is None
    assert len(drained(queue)) == 3


def test_rows_that_are_counted_do_not_change_while_their_candidates_end() -> None:
    queue, one = RequestQueue(), generation(candidate_count=4)
    queue.append(one)
    one.sequences[0].finish(Status.CANCELLED)

    queue.remove(one)

    assert queue.work == NOTHING


@given(st.lists(st.integers(0, 9), max_size=20))
def test_whoever_leaves_is_gone_and_the_others_keep_their_order(leaving: list[int]) -> None:
    queue, gone = RequestQueue(), set[int]()
    for one in TEN:
        queue.append(one)
    for index in leaving:
        assert queue.remove(TEN[index]) == (index not in gone)
        gone.add(index)

    assert drained(queue) == [one for index, one in enumerate(TEN) if index not in gone]


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_account_is_right_whatever_comes_leaves_returns_is_sent_or_set_aside(random_: random.Random) -> None:
    queue, waiting, away = RequestQueue(), list[Generation](), list[Generation]()
    for now in range(60):
        match random_.choice(("append", "append", "remove", "send", "aside", "restore", "expire")):
            case "append":
                one = asked(
                    random_.choice(("", "blue", "green")),
                    random_.choice(list(Priority)),
                    arrived_at=now,
                    deadline_at=random_.choice((None, now + random_.randint(1, 40))),
                    candidate_count=random_.randint(1, 4),
                )
                queue.append(one)
                waiting.append(one)
            case "remove" if waiting:
                one = waiting.pop(random_.randrange(len(waiting)))
                assert queue.remove(one)
            case "send" if head := queue.head(now):
                queue.send(head, now)
                waiting.remove(head)
                away.append(lost(head))
            case "aside" if queue.aside is None and (head := queue.head(now)):
                queue.set_aside(head, now)
            case "restore" if away:
                one = away.pop(random_.randrange(len(away)))
                queue.restore(one)
                waiting.append(one)
            case "expire":
                expired = queue.expire(now)
                assert set(expired) == {
                    one for one in waiting if one.deadline_at is not None and one.deadline_at <= now
                }
                waiting = [one for one in waiting if one not in expired]
        accounted(queue, waiting)
    leave_all(queue)


def accounted(queue: RequestQueue, waiting: list[Generation]) -> None:
    """The queue knows exactly what waits."""
    assert sorted(queue, key=id) == sorted(waiting, key=id)
    assert len(queue) == len(waiting)
    assert queue.work == sum(map(QueuedWork.of, waiting), NOTHING)
    for tenant in ("", "blue", "green"):
        own = [one for one in waiting if one.caller.tenant == tenant]
        assert queue.work_of(tenant) == sum(map(QueuedWork.of, own), NOTHING)


def leave_all(queue: RequestQueue) -> None:
    """Everything is reached from the head."""
    if queue.aside is not None:
        queue.remove(queue.aside)
    drained(queue)
    assert len(queue) == 0
    assert queue.work == NOTHING


def test_what_expires_is_taken_out_wherever_it_is() -> None:
    queue = RequestQueue()
    aside, back, new = asked(deadline_at=4.0), lost(asked(deadline_at=5.0)), asked(deadline_at=5.5)
    endless, later = asked(), asked(deadline_at=7.0)
    queue.restore(back)
    for one in (aside, new, endless, later):
        queue.append(one)
    queue.set_aside(aside, 0.0)

    assert queue.expire(3.9) == []
    assert queue.expire(6.0) == [aside, back, new]
    assert queue.aside is None
    assert drained(queue) == [later, endless]
