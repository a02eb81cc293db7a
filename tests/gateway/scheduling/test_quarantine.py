"""Requests that were there when workers died: suspects run alone, and what ends its worker alone is guilty."""

from itertools import pairwise

from gateway.domain.generation import Generation
from gateway.domain.sequence import Status
from gateway.scheduling.quarantine import Quarantine, Verdict
from tests.gateway.generations import generation
from tests.gateway.scheduling.test_scheduler import Workers, small


def suspects(workers: Workers, count: int) -> list[Generation]:
    """Generations that were present at two deaths, before anything else came."""
    present = small(count)
    for one in present:
        one.deaths = 1
    assert workers.scheduler.requeue(present, died=True) == []
    return present


def end(workers: Workers, one: Generation) -> None:
    one.finish(Status.LENGTH)
    workers.running[one.worker].remove(one)
    workers.dispatch()


def test_a_generation_goes_on_with_the_others_after_one_death_and_alone_after_two() -> None:
    quarantine, one = Quarantine(), generation()

    assert quarantine.judge(one, died=True) is Verdict.INNOCENT
    assert quarantine.judge(one, died=True) is Verdict.SUSPECT


def test_a_loss_in_peace_is_no_death() -> None:
    quarantine, one = Quarantine(), generation()

    assert [quarantine.judge(one, died=False) for _ in range(3)] == [Verdict.INNOCENT] * 3
    assert one.deaths == 0


def alone_in(quarantine: Quarantine) -> Generation:
    one = generation()
    one.deaths = 2
    quarantine.add(one)
    quarantine.isolate(one)
    return one


def test_a_suspect_whose_worker_dies_is_guilty() -> None:
    quarantine = Quarantine()

    assert quarantine.judge(alone_in(quarantine), died=True) is Verdict.GUILTY


def test_a_suspect_whose_worker_drains_is_tried_alone_again() -> None:
    quarantine = Quarantine()
    one = alone_in(quarantine)

    assert quarantine.judge(one, died=False) is Verdict.SUSPECT
    quarantine.add(one)

    assert quarantine.next_suspect(queued_count=0) is one


def test_a_suspect_waits_until_a_worker_is_empty_and_has_it_to_itself() -> None:
    workers = Workers(4)
    running = small(2)
    workers.arrive(*running)
    (suspect,) = suspects(workers, 1)
    behind = small(2)
    workers.arrive(*behind)
    assert workers.running["worker-0"] == running

    end(workers, running[0])
    assert workers.running["worker-0"] == running[1:]
    end(workers, running[1])
    assert workers.running["worker-0"] == [suspect]
    end(workers, suspect)
    assert workers.running["worker-0"] == behind


def test_other_workers_stay_in_use_while_a_suspect_runs() -> None:
    workers = Workers(4, 4)
    one, other = suspects(workers, 2)
    arriving = small(4)

    workers.arrive(*arriving)

    assert workers.running[one.worker] == [one]
    assert other not in workers.sent
    assert sorted(map(len, workers.running.values())) == [1, 4]


def test_suspects_run_one_after_the_other_oldest_first() -> None:
    workers = Workers(4)
    waiting = suspects(workers, 3)
    workers.dispatch()
    for one in waiting:
        assert workers.running["worker-0"] == [one]
        end(workers, one)

    assert workers.sent == waiting


def test_suspects_and_others_take_turns_on_a_single_worker() -> None:
    workers = Workers(1)
    waiting = suspects(workers, 3)
    workers.arrive(*small(1))
    for _ in range(12):
        (runs,) = workers.running["worker-0"]
        end(workers, runs)
        # The others are never all served: as soon as one is sent, the next one is there.
        workers.arrive(*small(1))

    kinds = [one in waiting for one in workers.sent]
    assert kinds.count(True) == 3
    assert not any(one and other for one, other in pairwise(kinds))


def test_others_that_leave_the_queue_are_not_waited_for() -> None:
    workers = Workers(1)
    first, second = suspects(workers, 2)
    behind = small(3)
    workers.arrive(*behind)
    end(workers, first)
    assert workers.sent == [first, behind[0]]
    for one in behind[1:]:
        workers.scheduler.remove(one)

    end(workers, behind[0])

    assert workers.running["worker-0"] == [second]


def test_a_suspect_that_leaves_makes_way() -> None:
    workers = Workers(1)
    one, other = suspects(workers, 2)
    workers.dispatch()
    assert workers.scheduler.remove(other)
    assert len(workers.scheduler) == 0

    end(workers, one)

    assert workers.sent == [one]


def test_one_whose_worker_is_found_alive_is_no_suspect_any_more() -> None:
    workers = Workers(4)
    running = small(1)
    workers.arrive(*running)
    waiting = suspects(workers, 2)

    workers.scheduler.retract_death(waiting)
    workers.dispatch()

    assert workers.running["worker-0"] == [*running, *waiting]


def test_a_suspect_whose_deadline_passes_waits_no_more() -> None:
    workers = Workers(1)
    workers.arrive(*small(1))
    waiting = suspects(workers, 3)
    for one, deadline_at in zip(waiting[:2], (5.0, 6.0), strict=True):
        one.deadline_at = deadline_at

    assert workers.scheduler.expire(5.0) == [waiting[0]]

    assert list(workers.scheduler) == waiting[1:]
    assert workers.scheduler.work.generation_count == 2
