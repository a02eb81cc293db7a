"""The history of each request, put together from what all processes recorded, and of each row of a worker. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

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
)


@dataclass(slots=True)
class Row:
    """One sequence on one stream of a worker, from its submission on."""

    submitted: Submitted
    made: list[int] = field(default_factory=list)
    """What it made, in order."""
    ends: list[Event] = field(default_factory=list)
    """What ended it here: its last step, a cancel, or the end of the stream."""
    steps_after_cancel: int = 0
    steps_after_finish: int = 0

    @property
    def tokens(self) -> tuple[int, ...]:
        """Everything that the worker knew of it."""
        return (*self.submitted.token_ids, *self.made)

    @property
    def is_over(self) -> bool:
        return bool(self.ends)


@dataclass(slots=True)
class Request:
    """What happened to one request."""

    number: int
    asked: Asked | None = None
    deliveries: list[Delivered] = field(default_factory=list)
    after_leaving: list[Delivered] = field(default_factory=list)
    left: Left | None = None
    ends: list[Ended] = field(default_factory=list)
    after_end: list[Delivered] = field(default_factory=list)
    admissions: list[Admitted] = field(default_factory=list)
    releases: list[Released] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What its caller got."""
        return tuple(token_id for delivery in self.deliveries for token_id in delivery.token_ids)

    @property
    def text(self) -> str:
        return "".join(delivery.text for delivery in self.deliveries)

    @property
    def is_whole(self) -> bool:
        """Whether it ended with a finish reason: all that there is was delivered."""
        return len(self.ends) == 1 and self.ends[0].outcome.islower() and self.ends[0].outcome != "cancelled"


@dataclass(slots=True)
class Stream:
    """One stream of a worker, with what is on it now."""

    rows: dict[int, Row] = field(default_factory=dict)
    """By sequence id; a row that is over stays until its id comes again."""
    running: set[int] = field(default_factory=set)
    """Those that are not over."""
    limit: int = 0
    """The largest room that was granted so far."""
    most_rows: int = 0
    """By how many rows the room was exceeded."""
    duplicates: list[Submitted] = field(default_factory=list)
    strangers: set[int] = field(default_factory=set)
    """Sequences with tokens that were never submitted."""


class History:
    """All events of a run, in the order of their times, told apart by request, stream and process."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.requests: dict[int, Request] = {}
        self.streams: dict[tuple[int, int], Stream] = {}
        self.beats: dict[int, Beat] = {}
        """The last one of each worker, unless it has ended a stream since: then it may have ended, too."""
        self.held: dict[int, Held] = {}
        """The last one of each gateway."""
        self.killed: set[int] = set()
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Asked():
                self._request(event.request).asked = event
            case Delivered():
                self._deliver(self._request(event.request), event)
            case Left():
                self._request(event.request).left = event
            case Ended():
                self._request(event.request).ends.append(event)
            case Admitted():
                self._request(event.request).admissions.append(event)
            case Released():
                self._request(event.request).releases.append(event)
            case Held():
                self.held[event.gateway] = event
            case Beat():
                self.beats[event.worker] = event
            case Killed():
                self.killed.add(event.process)
            case _:
                self._take_on(self.streams.setdefault((event.worker, event.stream), Stream()), event)

    def _take_on(self, stream: Stream, event: Granted | Submitted | Stepped | Dropped | Closed) -> None:
        match event:
            case Granted():
                stream.limit = max(stream.limit, event.sequence_limit)
            case Submitted():
                self._submit(stream, event)
            case Stepped():
                _step(stream, event)
            case Dropped():
                for row in (stream.rows[each] for each in event.sequence_ids if each in stream.rows):
                    row.ends.append(event)
                stream.running.difference_update(event.sequence_ids)
            case Closed():
                self.beats.pop(event.worker, None)
                for row in stream.rows.values():
                    if not row.is_over:
                        row.ends.append(event)
                stream.running.clear()

    def _request(self, number: int) -> Request:
        return self.requests.setdefault(number, Request(number))

    def _deliver(self, request: Request, delivery: Delivered) -> None:
        if request.ends:
            request.after_end.append(delivery)
        elif request.left:
            request.after_leaving.append(delivery)
        else:
            request.deliveries.append(delivery)

    def _submit(self, stream: Stream, submitted: Submitted) -> None:
        former = stream.rows.get(submitted.sequence_id)
        if former is not None and not former.is_over:
            stream.duplicates.append(submitted)
        row = stream.rows[submitted.sequence_id] = Row(submitted)
        self._request(submitted.request).rows.append(row)
        stream.running.add(submitted.sequence_id)
        stream.most_rows = max(stream.most_rows, len(stream.running) - stream.limit)


def _step(stream: Stream, step: Stepped) -> None:
    stream.strangers.update(each for each in step.sequence_ids if each not in stream.rows)
    stepped = {each: stream.rows[each] for each in step.sequence_ids if each in stream.rows}
    for row in stepped.values():
        row.steps_after_cancel += any(isinstance(end, Dropped) for end in row.ends)
        row.steps_after_finish += any(isinstance(end, Stepped) for end in row.ends)
    for sequence_id, token_id in zip(step.sequence_ids, step.token_ids, strict=True):
        if sequence_id in stepped:
            stepped[sequence_id].made.append(token_id)
    for row in (stream.rows[each] for each in step.finished if each in stream.rows):
        row.ends.append(step)
    stream.running.difference_update(step.finished)
