"""One gateway's Run stream, as the worker sees it: what it has here, what it is sent, and its share of the room."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from textserve.internal.v1 import worker_pb2 as pb

from ..domain.sequence import Root, Sequence, reported
from ..engine.engine_thread import Emission, PromptReport
from .messages import add_emissions, prompt_logprobs


@dataclass(frozen=True, slots=True)
class Submitted:
    """A sequence that is here."""

    sequence: Sequence
    row_count: int
    """Rows that it takes; those of a beam search are counted with its first candidate."""


class Connection:
    """State of one Run stream. Lives on the event loop.

    Steps that a slow gateway has not taken yet are merged into one message, so that what waits is bounded by the tokens
    of its own sequences.
    """

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.sequences: dict[int, Submitted] = {}
        """What was submitted and has neither ended nor been cancelled, by sequence id."""
        self.queued_count = 0
        """What waits in the gateway's own queue, as it last said."""
        self.sequence_limit = 0
        """What it was last granted."""
        self._step: pb.Step | None = None
        self._control: dict[object, pb.RunResponse] = {}
        self._ready = asyncio.Event()
        self._closed = False

    @property
    def demand(self) -> int:
        return sum(each.row_count for each in self.sequences.values()) + self.queued_count

    def add(self, roots: Iterable[Root]) -> None:
        """Takes in a submission. Raises ValueError if one of its sequence ids is in use, or comes twice."""
        new: dict[int, Submitted] = {}
        for root in roots:
            candidates = reported(root.sequences)
            extra = len(root.sequences) - len(candidates)
            for index, sequence in enumerate(candidates):
                if sequence.sequence_id in self.sequences or sequence.sequence_id in new:
                    raise ValueError(f"sequence id {sequence.sequence_id} is in use")
                new[sequence.sequence_id] = Submitted(sequence, row_count=1 if index else 1 + extra)
        self.sequences.update(new)

    def drop(self, sequence_ids: Iterable[int]) -> list[Sequence]:
        """Lets sequences go, and returns them; unknown ids are ignored."""
        return [self.sequences.pop(each).sequence for each in sequence_ids if each in self.sequences]

    def grant(self, sequence_limit: int) -> None:
        """Sends the gateway's share of the room, if it changed."""
        if sequence_limit != self.sequence_limit:
            self.sequence_limit = sequence_limit
            self.send(pb.RunResponse(credits=pb.Credits(sequence_limit=sequence_limit)))

    def deliver(self, step: int, emissions: Iterable[Emission], prompts: Iterable[PromptReport] = ()) -> None:
        """Sends what a step made; what it made for sequences that have been cancelled meanwhile is dropped."""
        for report in prompts:
            if report.sequence_id in self.sequences:
                self.send(prompt_logprobs(report))
        known = [emission for emission in emissions if emission.sequence_id in self.sequences]
        for emission in known:
            if emission.finish is not None:
                del self.sequences[emission.sequence_id]
        if known:
            add_emissions(self._pending_step(), step, known)

    def finish(self, ending: pb.SequenceFinish) -> None:
        """Sends the end of a sequence that was refused."""
        self._pending_step().finishes.append(ending)

    def send(self, message: pb.RunResponse) -> None:
        """Sends a message that is not part of a step; of heartbeats and credits only the newest is kept waiting."""
        kind = message.WhichOneof("message")
        key = kind if kind in {"heartbeat", "credits"} else len(self._control)
        self._control.pop(key, None)
        self._control[key] = message
        self._ready.set()

    def close(self) -> None:
        """Ends the stream once everything has been taken."""
        self._closed = True
        self._ready.set()

    def _pending_step(self) -> pb.Step:
        if self._step is None:
            self._step = pb.Step()
        self._ready.set()
        return self._step

    async def messages(self) -> AsyncIterator[pb.RunResponse]:
        """Yields what is to be sent, until `close`."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            control, self._control = self._control, {}
            step, self._step = self._step, None
            for message in control.values():
                yield message
            if step is not None:
                yield pb.RunResponse(step=step)
            if self._closed and not self._ready.is_set():
                return


def share(total: int, demands: Mapping[int, int]) -> dict[int, int]:
    """Divides `total` places between gateways by demand (what each has at the worker and in its queue).

    Each gateway gets at least one place, so that none is locked out, and none gets more than its demand while another
    wants more (max-min fairness). Places that nobody wants are dealt out evenly, to be used at once when work arrives.
    The shares sum to `total`, or to the number of gateways if that is larger.
    """
    wanted = _fill(total, dict.fromkeys(demands, 1), demands)
    return _fill(total, wanted, dict.fromkeys(demands, total))


def _fill(total: int, floors: Mapping[int, int], limits: Mapping[int, int]) -> dict[int, int]:
    """Raises the lowest shares, each up to its limit, until they sum to `total`; none falls below its floor."""

    def at(level: int) -> dict[int, int]:
        return {key: max(floor, min(level, limits[key])) for key, floor in floors.items()}

    level = bisect_right(range(total + 1), total, key=lambda level: sum(at(level).values())) - 1
    shares, higher = at(level), at(level + 1)
    left = total - sum(shares.values())
    for key in islice((key for key in shares if higher[key] > shares[key]), max(0, left)):
        shares[key] += 1
    return shares
