"""Interactive work takes room from batch work, as far as it needs, and batch work comes to its end all the same."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.generation import Generation
from gateway.domain.tenancy import Priority
from gateway.scheduling.placement import MAX_PREEMPTIONS, is_preemptible
from gateway.scheduling.queue import AGED_S, TURN
from tests.gateway.callers import Fleet, asked, batch, interactive
from tests.gateway.generations import generation


def busy_with_batch(*limits: int) -> tuple[Fleet, list[Generation]]:
    """Workers whose rows are all taken by batch work, which arrives one after the other."""
    fleet = Fleet(*limits)
    running = [fleet.arrive(batch(), 50) for _ in range(sum(limits))]
    fleet.dispatch()
    assert fleet.sent == running
    return fleet, running


def test_an_interactive_one_gets_the_row_of_the_batch_one_that_began_last() -> None:
    fleet, running = busy_with_batch(3)
    waiting = fleet.arrive(batch())

    one = fleet.arrive(interactive())
    fleet.dispatch()

    assert fleet.running["worker-0"] == [*running[:2], one]
    assert [*fleet.queue] == [running[2], waiting]
    assert running[2].preemptions == 1


@pytest.mark.parametrize("priority", [Priority.DEFAULT, Priority.BATCH])
def test_nothing_else_takes_room_from_others(priority: Priority) -> None:
    fleet, running = busy_with_batch(2)

    fleet.arrive(asked("other", priority))
    fleet.dispatch()

    assert fleet.running["worker-0"] == running


@pytest.mark.parametrize("priority", [Priority.DEFAULT, Priority.INTERACTIVE])
def test_nothing_is_taken_from_better_classes(priority: Priority) -> None:
    fleet = Fleet(1)
    first = fleet.arrive(asked(priority=priority), 50)
    fleet.dispatch()

    fleet.arrive(interactive())
    fleet.dispatch()

    assert fleet.sent == [first]


def test_nothing_makes_way_while_there_is_room() -> None:
    fleet, running = busy_with_batch(2)
    fleet.limits["worker-0"] = 3

    one = fleet.arrive(interactive())
    fleet.dispatch()

    assert fleet.running["worker-0"] == [*running, one]


def beyond_its_rows(place_count: int) -> Fleet:
    """A worker that takes some more than the rows that it runs at once."""
    return Fleet(generation().facts.max_rows + place_count)


def test_interactive_work_takes_a_row_that_runs_rather_than_a_place_to_wait_for_one() -> None:
    fleet = beyond_its_rows(2)
    running = [fleet.arrive(batch(), 50) for _ in range(12)][:8]
    fleet.dispatch()
    assert fleet.running["worker-0"] == running

    one = fleet.arrive(interactive())
    fleet.dispatch()

    assert fleet.running["worker-0"] == [*running[:7], one]
    assert running[7].preemptions == 1


def test_so_much_batch_work_makes_way_that_interactive_work_runs_behind_what_waits_before_it() -> None:
    fleet = beyond_its_rows(2)
    for one in (*(batch() for _ in range(8)), asked()):
        fleet.arrive(one, 50)
        fleet.dispatch()
    assert len(fleet.running["worker-0"]) == 9

    urgent = fleet.arrive(interactive())
    fleet.dispatch()

    assert fleet.running["worker-0"][-1] is urgent
    assert len(fleet.running["worker-0"]) == 8


@pytest.mark.parametrize("priority", [Priority.DEFAULT, Priority.INTERACTIVE])
def test_what_makes_way_for_nothing_waits_where_the_next_free_row_will_be(priority: Priority) -> None:
    fleet = beyond_its_rows(2)
    for _ in range(12):
        fleet.arrive(asked(priority=priority), 50)

    fleet.dispatch()

    assert len(fleet.running["worker-0"]) == 10


def test_so_many_make_way_as_are_needed_and_only_where_that_is_enough() -> None:
    fleet = Fleet(4, 4)
    mixed = [fleet.arrive(one, 50) for one in (asked(), asked(), asked(), asked(), batch(), batch(), batch(), batch())]
    fleet.dispatch()
    moved = [one for one in mixed if one.caller.priority is Priority.BATCH]
    assert {one.worker for one in moved} == {"worker-0", "worker-1"}

    large = fleet.arrive(interactive(candidate_count=3))
    fleet.dispatch()
    assert large not in fleet.sent
    assert not any(one.preemptions for one in mixed)

    for each in mixed[:2]:
        fleet.running[each.worker].remove(each)
    fleet.dispatch()
    assert large in fleet.sent
    assert sum(one.preemptions for one in moved) == 2


def test_a_beam_search_does_not_make_way() -> None:
    one = batch(candidate_count=2)
    assert is_preemptible(one)
    one.config = replace(one.config, num_beams=2)
    assert not is_preemptible(one)


def test_what_is_preempted_goes_on_behind_its_tokens_under_new_names() -> None:
    fleet, (one,) = busy_with_batch(1)
    for _ in range(3):
        fleet.step()
    (name,) = (sequence.sequence_id for sequence in one.sequences)
    fleet.arrive(interactive())
    fleet.dispatch()
    assert one.output_token_count == 3

    fleet.step()

    assert fleet.running["worker-0"] == [one]
    assert one.sequences[0].sequence_id != name
    assert one.sequences[0].sequence_id % 2 == name % 2
    fleet.step()
    assert one.output_token_count == 4


def test_what_has_made_way_often_enough_runs_to_its_end() -> None:
    fleet, (one,) = busy_with_batch(1)
    for _ in range(MAX_PREEMPTIONS):
        fleet.arrive(interactive())
        fleet.dispatch()
        fleet.step()
        assert fleet.running["worker-0"] == [one]

    waiting = fleet.arrive(interactive())
    fleet.dispatch()

    assert fleet.running["worker-0"] == [one]
    assert [*fleet.queue] == [waiting]


def test_what_its_age_let_through_does_not_make_way() -> None:
    fleet = Fleet(1)
    old = fleet.arrive(batch(), 5)
    fleet.now = AGED_S
    while old not in fleet.sent:
        fleet.arrive(interactive(arrived_at=fleet.now))
        fleet.step()

    fleet.arrive(interactive(arrived_at=fleet.now))
    fleet.dispatch()

    assert fleet.running["worker-0"] == [old]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 20))
def test_batch_work_comes_to_its_end_under_a_flood_of_interactive_work(rows: int, count: int, length: int) -> None:
    fleet = Fleet(rows)
    work = [fleet.arrive(batch(candidate_count=1 + index % 2), length) for index in range(count)]
    # Each step brings twice as much as it can serve.
    bound = int(AGED_S) + TURN * (count + 1) * (length + 2)
    for _ in range(bound):
        for _ in range(2 * rows):
            fleet.arrive(interactive(arrived_at=fleet.now))
        fleet.step()
        if all(one.finished for one in work):
            break

    assert all(one.finished for one in work)


def test_a_backlog_of_aged_batch_work_takes_a_small_share_from_interactive_work() -> None:
    fleet = Fleet(4)
    for _ in range(300):
        fleet.arrive(batch("hoarder"), 4)
    fleet.now = 10 * AGED_S
    for _ in range(200):
        for _ in range(2):
            fleet.arrive(interactive("desk", arrived_at=fleet.now), 4)
        fleet.step()

    interactive_count = sum(one.caller.tenant == "desk" for one in fleet.sent)
    assert interactive_count >= (len(fleet.sent) - interactive_count) * (TURN - 1) * 0.9


@pytest.mark.parametrize("place_count", [0, 2])
def test_interactive_work_takes_a_row_of_batch_work_while_batch_work_waits_for_its_turn(place_count: int) -> None:
    fleet, running = busy_with_batch(generation().facts.max_rows)
    fleet.limits["worker-0"] += place_count
    fleet.arrive(batch(candidate_count=1))
    fleet.now = AGED_S
    fleet.queue._ageing._passed = TURN - 1

    one = fleet.arrive(interactive(arrived_at=fleet.now))
    fleet.dispatch()

    assert fleet.running["worker-0"] == [*running[:-1], one]
