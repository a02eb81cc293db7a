"""A pause is measured at the caller, and what the next worker computed is told apart."""

import pytest

from tests.chaos.events import Delivered, Event, Granted, Stepped, Submitted
from tests.chaos.resumption import pauses

LOST, OTHER = 10, 20


def stream(request: int, worker: int) -> list[Event]:
    """A stream that has made a token on `worker` at 2 s."""
    return [
        Granted(0.0, worker, 0, 8),
        Submitted(1.0, worker, 0, request, request, ()),
        Stepped(2.0, worker, 0, (request,), (65,), ()),
        Delivered(2.1, request, (65,), "A"),
    ]


def goes_on(request: int, *, submitted_at: float, stepped_at: float, delivered_at: float) -> list[Event]:
    return [
        Submitted(submitted_at, OTHER, 0, request, request, (65,)),
        Stepped(stepped_at, OTHER, 0, (request,), (66,), ()),
        Delivered(delivered_at, request, (66,), "B"),
    ]


def test_a_pause_is_from_the_fault_to_the_callers_next_token() -> None:
    events = [*stream(1, LOST), *goes_on(1, submitted_at=3.1, stepped_at=3.6, delivered_at=3.7)]
    (pause,) = pauses(events, 3.0, {LOST})
    assert pause.whole_s == pytest.approx(0.7)
    assert pause.computing_s == pytest.approx(0.5)
    assert pause.overhead_s == pytest.approx(0.2)


def test_what_was_on_its_way_before_the_fault_ends_no_pause() -> None:
    late = [Delivered(3.05, 1, (), "")]
    events = [*stream(1, LOST), *late, *goes_on(1, submitted_at=3.1, stepped_at=3.6, delivered_at=3.7)]
    (pause,) = pauses(events, 3.0, {LOST})
    assert pause.whole_s == pytest.approx(0.7)


def test_streams_of_other_workers_do_not_pause() -> None:
    events = [*stream(1, OTHER), Stepped(3.5, OTHER, 0, (1,), (66,), (1,)), Delivered(3.6, 1, (66,), "B")]
    assert not pauses(events, 3.0, {LOST})


def test_a_stream_that_had_ended_before_the_fault_does_not_pause() -> None:
    events = [*stream(1, LOST), Stepped(2.5, LOST, 0, (1,), (66,), (1,))]
    assert not pauses(events, 3.0, {LOST})
