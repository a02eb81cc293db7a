"""What stands before a new generation: enough to refuse what is hopeless, and never more than there is."""

from gateway.domain.tenancy import Caller, Priority, TenantPolicy
from gateway.scheduling.queue import NOTHING, QueuedWork, RequestQueue
from tests.gateway.callers import asked, batch


def test_what_stands_before_a_caller_is_what_is_better_its_own_and_the_others_turns() -> None:
    queue = RequestQueue(TenantPolicy(weights={"blue": 2.0}))
    queue.append(asked("red", Priority.INTERACTIVE, prompt="a" * 5))
    for _ in range(4):
        queue.append(asked("blue", prompt="a" * 10))
    for _ in range(10):
        queue.append(asked("green", prompt="a" * 10))
    queue.append(batch("blue"))

    # 40 tokens of its own, and half as many of those with half its weight.
    assert queue.work_before(Caller("blue")) == QueuedWork(1 + 4 + 2, 5 + 40 + 20, 1 + 4 + 2)
    # As much as the others have, at most.
    assert queue.work_before(Caller("green")) == QueuedWork(1 + 10 + 4, 5 + 100 + 40, 1 + 10 + 4)
    assert queue.work_before(Caller("new")) == QueuedWork(1, 5, 1)
    assert queue.work_before(Caller("blue", Priority.INTERACTIVE)) == NOTHING


def test_an_urgent_one_has_only_what_is_more_urgent_before_it() -> None:
    queue = RequestQueue()
    for deadline_at in (10.0, 20.0, 30.0, 40.0):
        queue.append(asked(deadline_at=deadline_at))

    assert queue.work_before(Caller(), due=5.0) == NOTHING
    assert queue.work_before(Caller(), due=20.0).generation_count == 2
    assert queue.work_before(Caller(), due=50.0) == queue.work_before(Caller()) == queue.work
