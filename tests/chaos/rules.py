"""What must hold of every history, whatever faults it had: each rule yields where it is broken. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.chaos.events import Dropped, Ended, Stepped
from tests.chaos.history import History, Request, Row

Tokens = tuple[int, ...]
TextOf = Callable[[Tokens, Tokens], str]
"""The text that an output adds to its prompt."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that is broken, and where."""

    rule: str
    where: str
    """The request or process that it is about."""
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}"


def violations(
    history: History, *, text_of: TextOf | None = None, expected: Mapping[int, Tokens] | None = None
) -> list[Violation]:
    """Everything that is wrong with a run.

    Args:
        history: What happened.
        text_of: Decodes outputs; unset: texts are not compared.
        expected: The tokens of an undisturbed run, by request; what was delivered must be them, or begin them.
    """
    found: list[Violation] = []
    for request in history.requests.values():
        found += _all_recorded(request)
        found += _one_end(request)
        found += _admissions_released(request, history.killed)
        found += _nothing_after(request)
        found += _indices(request)
        found += _usage(request)
        if text_of is not None:
            found += _text(request, text_of)
        if expected is not None and request.number in expected:
            found += _as_expected(request, expected[request.number])
    return found + list(_rows_conserved(history)) + list(_nothing_held(history))


def failures(history: History, is_right: Callable[[Ended], bool]) -> list[str]:
    """The calls that ended otherwise than they may, and how far they had come."""
    return [
        f"request {request.number} ended with {end.outcome} behind {len(request.token_ids)} tokens, "
        f"{len(request.admissions)} admissions and {len(request.rows)} submissions"
        for request in history.requests.values()
        for end in request.ends
        if not is_right(end)
    ]


def _about(request: Request) -> str:
    return f"request {request.number}"


def _all_recorded(request: Request) -> Iterator[Violation]:
    """Without the record of a gateway or a worker, what is looked for there would never be found."""
    if request.asked is not None and request.token_ids:
        if not request.admissions:
            yield Violation("all recorded", _about(request), "no gateway has taken it, and there are tokens")
        if not request.rows:
            yield Violation("all recorded", _about(request), "no worker has got it, and there are tokens")


def _one_end(request: Request) -> Iterator[Violation]:
    if request.asked is not None and len(request.ends) != 1:
        outcomes = [end.outcome for end in request.ends]
        yield Violation("exactly one end", _about(request), f"{len(outcomes)} ends {outcomes}")


def _admissions_released(request: Request, killed: set[int]) -> Iterator[Violation]:
    for gateway in {each.gateway for each in request.admissions} - killed:
        admitted = sum(each.gateway == gateway for each in request.admissions)
        released = sum(each.gateway == gateway for each in request.releases)
        if released < admitted:
            yield Violation("every admitted request ends", _about(request), f"not released by gateway {gateway}")


def _nothing_after(request: Request) -> Iterator[Violation]:
    if request.after_end:
        yield Violation("nothing after the end", _about(request), f"{len(request.after_end)} deltas")
    if request.after_leaving:
        yield Violation("nothing after a cancel", _about(request), f"{len(request.after_leaving)} deltas")
    for row in request.rows:
        if row.steps_after_cancel > 1:
            yield Violation("one step after a cancel", _about(request), f"{row.steps_after_cancel} steps")
        if row.steps_after_finish:
            yield Violation("nothing after the end", _about(request), f"{row.steps_after_finish} steps of its worker")


def _indices(request: Request) -> Iterator[Violation]:
    """Each worker goes on exactly behind what another one made, and the caller gets exactly what one had in the end.

    Which one it was before is not looked at: a worker that is stopped, or cut off, reads a submission long after the
    request has gone on elsewhere.
    """
    made: list[Tokens] = [()]
    for row in request.rows:
        held = row.submitted.token_ids
        if not _begins_one(held, made):
            yield Violation("indices contiguous", _about(request), f"goes on behind {held}, but there is {made}")
        made.append(row.tokens)
    if request.rows and not _begins_one(request.token_ids, made):
        yield Violation("tokens as made", _about(request), f"delivered {request.token_ids}, made {made}")


def _begins_one(tokens: Tokens, made: list[Tokens]) -> bool:
    return any(tokens == each[: len(tokens)] for each in made)


def _usage(request: Request) -> Iterator[Violation]:
    if request.is_whole and request.ends[0].output_token_count != len(request.token_ids):
        counted, seen = request.ends[0].output_token_count, len(request.token_ids)
        yield Violation("usage as seen", _about(request), f"usage says {counted}, {seen} were seen")
    submissions = len(request.rows)
    if request.is_whole and len(request.admissions) <= 1 and request.ends[0].attempts < submissions:
        attempts = request.ends[0].attempts
        yield Violation("attempts as made", _about(request), f"{attempts} in the receipt, {submissions} submissions")


def _text(request: Request, text_of: TextOf) -> Iterator[Violation]:
    if request.is_whole and request.asked is not None:
        right = text_of(request.asked.prompt, request.token_ids)
        if request.text != right:
            yield Violation("text of the tokens", _about(request), f"{request.text!r} is not {right!r}")


def _as_expected(request: Request, expected: Tokens) -> Iterator[Violation]:
    delivered = request.token_ids
    right = expected if request.is_whole else expected[: len(delivered)]
    if delivered != right:
        yield Violation("tokens as undisturbed", _about(request), f"{delivered} instead of {right}")


def _rows_conserved(history: History) -> Iterator[Violation]:
    for (worker, number), stream in history.streams.items():
        where = f"stream {number} of worker {worker}"
        for submitted in stream.duplicates:
            yield Violation("rows conserved", where, f"sequence {submitted.sequence_id} is submitted twice")
        for stranger in sorted(stream.strangers):
            yield Violation("rows conserved", where, f"tokens for sequence {stranger}, which was never submitted")
        if stream.most_rows > 0:
            yield Violation("rows conserved", where, f"{stream.most_rows} rows above the room of {stream.limit}")
    for request in history.requests.values():
        for row in request.rows:
            yield from _row_conserved(request, row, history.killed)


def _row_conserved(request: Request, row: Row, killed: set[int]) -> Iterator[Violation]:
    worker = row.submitted.worker
    if not row.is_over and worker not in killed:
        yield Violation("rows conserved", _about(request), f"never left worker {worker}")
    for kind in (Dropped, Stepped):
        if sum(isinstance(end, kind) for end in row.ends) > 1:
            yield Violation("rows conserved", _about(request), f"left worker {worker} twice")


def _nothing_held(history: History) -> Iterator[Violation]:
    """Once all is over, gateways hold nothing, and engines have nothing to do: as they say, not by their silence."""
    if not history.held or not history.beats:
        yield Violation("nothing held", "all", f"{len(history.held)} gateways and {len(history.beats)} workers tell")
    for gateway, held in history.held.items():
        if gateway not in history.killed and (held.queued_count or held.running_count):
            what = f"{held.queued_count} queued, {held.running_count} running"
            yield Violation("nothing held", f"gateway {gateway}", what)
    for worker, beat in history.beats.items():
        if worker not in history.killed and beat.busy:
            yield Violation("nothing held", f"worker {worker}", "its engine is at work")
