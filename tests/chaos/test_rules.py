"""The checker finds nothing wrong with a right history, and every kind of wrong that is planted in one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.events import (
    Admitted,
    Asked,
    Beat,
    Closed,
    Delivered,
    Dropped,
    Ended,
    Event,
    Granted,
    Held,
    Killed,
    Left,
    Released,
    Stepped,
    Submitted,
    from_line,
    to_line,
)
from tests.chaos.history import History
from tests.chaos.rules import Tokens, failures, violations

GATEWAY, FIRST, SECOND, REQUEST, SEQUENCE = 1, 10, 20, 7, 2
EXPECTED = {REQUEST: (65, 66, 67, 68), 8: (70, 71, 72)}


def text_of(prompt: Tokens, output: Tokens) -> str:
    return "".join(map(chr, output))


def resumed() -> list[Event]:
    """A request whose first worker is killed behind its second token, and which ends at the second worker."""
    return [
        Granted(0, FIRST, 0, 1),
        Granted(0, SECOND, 0, 1),
        Asked(1, REQUEST, (5,)),
        Admitted(2, GATEWAY, REQUEST),
        Submitted(3, FIRST, 0, SEQUENCE, REQUEST, ()),
        Stepped(4, FIRST, 0, (SEQUENCE,), (65,), ()),
        Delivered(5, REQUEST, (65,), "A"),
        Stepped(6, FIRST, 0, (SEQUENCE,), (66,), ()),
        Killed(7, FIRST),
        Submitted(8, SECOND, 0, SEQUENCE, REQUEST, (65, 66)),
        Delivered(9, REQUEST, (66,), "B"),
        Stepped(10, SECOND, 0, (SEQUENCE, SEQUENCE), (67, 68), (SEQUENCE,)),
        Delivered(11, REQUEST, (67, 68), "CD"),
        Ended(12, REQUEST, "length", 4, 2),
        Released(13, GATEWAY, REQUEST, "LENGTH"),
        Held(14, GATEWAY, 0, 0, 3),
        Beat(15, SECOND, busy=False),
    ]


def cancelled() -> list[Event]:
    """A request whose caller leaves behind the first token; one more comes from the step under way."""
    return [
        Granted(20, SECOND, 1, 1),
        Asked(21, 8, (5,)),
        Admitted(22, GATEWAY, 8),
        Submitted(23, SECOND, 1, 4, 8, ()),
        Stepped(24, SECOND, 1, (4,), (70,), ()),
        Delivered(25, 8, (70,), "F"),
        Left(26, 8),
        Ended(26.5, 8, "cancelled"),
        Released(27, GATEWAY, 8, "CANCELLED"),
        Dropped(28, SECOND, 1, (4,)),
        Stepped(29, SECOND, 1, (4,), (71,), ()),
        Held(30, GATEWAY, 0, 0, 3),
        Closed(31, SECOND, 1),
        Beat(32, SECOND, busy=False),
    ]


def broken_rules(events: list[Event]) -> set[str]:
    history = History(sorted(events, key=lambda event: event.at))
    return {violation.rule for violation in violations(history, text_of=text_of, expected=EXPECTED)}


def test_a_right_history_breaks_no_rule() -> None:
    assert not broken_rules(resumed() + cancelled())


def without(*kinds: type[Event], request: int | None = None) -> Callable[[list[Event]], list[Event]]:
    return lambda events: [
        event for event in events if not (isinstance(event, kinds) and request in {None, getattr(event, "request", 0)})
    ]


def changed(kind: type[Event], at: float, **values: Any) -> Callable[[list[Event]], list[Event]]:
    def change(event: Event) -> Event:
        return replace(event, **values) if isinstance(event, kind) and event.at == at else event

    return lambda events: [change(event) for event in events]


def added(*events: Event) -> Callable[[list[Event]], list[Event]]:
    return lambda others: [*others, *events]


PLANTED: dict[str, tuple[Callable[[list[Event]], list[Event]], set[str]]] = {
    "no record of any worker's streams": (without(Granted, Submitted, Stepped, Dropped, Closed), {"all recorded"}),
    "no record of any gateway's requests": (without(Admitted, Released), {"all recorded"}),
    "no gateway tells what it holds": (without(Held), {"nothing held"}),
    "no worker beats": (without(Beat), {"nothing held"}),
    "no end": (without(Ended, request=REQUEST), {"exactly one end"}),
    "two ends": (added(Ended(12.5, REQUEST, "length", 4, 2)), {"exactly one end"}),
    "not released": (without(Released, request=8), {"every admitted request ends"}),
    "admitted again and never released": (
        added(Admitted(2.5, GATEWAY, REQUEST)),
        {"every admitted request ends"},
    ),
    "delta after the end": (added(Delivered(12.5, REQUEST, (), "")), {"nothing after the end"}),
    "delta after a cancel": (added(Delivered(26.2, 8, (71,), "G")), {"nothing after a cancel"}),
    "second step after a cancel": (added(Stepped(29.5, SECOND, 1, (4,), (72,), ())), {"one step after a cancel"}),
    "step after the last one": (
        added(Stepped(10.5, SECOND, 0, (SEQUENCE,), (69,), ())),
        {"nothing after the end"},
    ),
    "resumed too early": (
        changed(Submitted, 8, token_ids=(65,)),
        {"tokens as made"},
    ),
    "resumed too late": (
        changed(Submitted, 8, token_ids=(65, 66, 67)),
        {"indices contiguous", "tokens as made"},
    ),
    "resumed behind other tokens": (
        changed(Submitted, 8, token_ids=(65, 99)),
        {"indices contiguous", "tokens as made"},
    ),
    "token lost on the way": (
        changed(Delivered, 9, token_ids=()),
        {"tokens as made", "usage as seen", "text of the tokens", "tokens as undisturbed"},
    ),
    "token doubled on the way": (
        changed(Delivered, 9, token_ids=(66, 66)),
        {"tokens as made", "usage as seen", "text of the tokens", "tokens as undisturbed"},
    ),
    "other continuation": (
        changed(Stepped, 10, token_ids=(67, 69)),
        {"tokens as made"},
    ),
    "text of other tokens": (changed(Delivered, 9, text="X"), {"text of the tokens"}),
    "usage too small": (changed(Ended, 12, output_token_count=3), {"usage as seen"}),
    "attempts not told": (changed(Ended, 12, attempts=1), {"attempts as made"}),
    "row left behind": (
        lambda events: without(Closed)(without(Dropped)(events)),
        {"rows conserved"},
    ),
    "row of a worker that was not killed": (without(Killed), {"rows conserved"}),
    "row cancelled twice": (added(Dropped(28.5, SECOND, 1, (4,))), {"rows conserved"}),
    "sequence submitted twice": (
        added(Submitted(23.5, SECOND, 1, 4, 8, ())),
        {"rows conserved"},
    ),
    "more rows than room": (changed(Granted, 20, sequence_limit=0), {"rows conserved"}),
    "tokens of a stranger": (changed(Stepped, 29, sequence_ids=(6,)), {"rows conserved"}),
    "request left in the queue": (added(Held(40, GATEWAY, 1, 0, 3)), {"nothing held"}),
    "request left running": (added(Held(40, GATEWAY, 0, 1, 3)), {"nothing held"}),
    "engine left at work": (added(Beat(40, SECOND, busy=True)), {"nothing held"}),
}


def test_a_worker_that_ended_while_it_was_at_work_holds_nothing() -> None:
    ended: list[Event] = [Beat(40, SECOND, busy=True), Closed(41, SECOND, 0), Beat(42, 30, busy=False)]
    assert not broken_rules([*resumed(), *cancelled(), *ended])


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(name: str) -> None:
    plant, rules = PLANTED[name]
    assert broken_rules(plant(resumed() + cancelled())) == rules


def test_other_tokens_than_those_of_the_undisturbed_run_are_found() -> None:
    history = History(resumed())
    assert [each.rule for each in violations(history, expected={REQUEST: (65, 66, 67, 67)})] == [
        "tokens as undisturbed"
    ]


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for _, rules in PLANTED.values() for rule in rules} == {
        "all recorded", "exactly one end", "every admitted request ends", "nothing after the end",
        "nothing after a cancel", "one step after a cancel", "indices contiguous", "tokens as made", "usage as seen",
        "attempts as made", "text of the tokens", "tokens as undisturbed", "rows conserved", "nothing held",
    }  # fmt: skip


@given(st.sampled_from(resumed() + cancelled()))
def test_events_survive_their_lines(event: Event) -> None:
    assert from_line(to_line(event)) == event


@given(st.data())
def test_a_history_that_lacks_any_token_of_its_caller_is_wrong(data: st.DataObject) -> None:
    events = resumed()
    place = data.draw(st.sampled_from([i for i, event in enumerate(events) if isinstance(event, Delivered)]))
    del events[place]
    assert broken_rules(events)


def test_a_call_that_ends_otherwise_than_it_may_is_told_with_how_far_it_came() -> None:
    history = History(sorted(resumed() + cancelled(), key=lambda event: event.at))
    assert failures(history, lambda end: end.outcome == "length") == [
        "request 8 ended with cancelled behind 1 tokens, 1 admissions and 1 submissions"
    ]
