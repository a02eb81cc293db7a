"""One candidate on its way: its status, its counts, and the text that is not delivered yet. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from .timing import Timeline

if TYPE_CHECKING:
    from .detokenizer import Detokenizer
    from .stopping import StopMatcher


class Status(IntEnum):
    """Where a sequence is. Everything from END_OF_SEQUENCE on is finished, and is the reason why."""

    QUEUED = 0
    PREFILLING = 1
    DECODING = 2
    END_OF_SEQUENCE = 3
    STOP_SEQUENCE = 4
    LENGTH = 5
    CANCELLED = 6
    DEADLINE = 7
    FAILED = 8


@dataclass(frozen=True, slots=True)
class Delta:
    """Text and token ids that follow what was taken before."""

    text: str
    token_ids: tuple[int, ...]


class Sequence:
    """The state of one candidate. Tokens are pushed in by its worker's session, deltas are taken out by its writer.

    Args:
        sequence_id: Its name towards the workers, unique in this gateway.
        candidate_index: Its position among the candidates of its generation, from 0.
        seed: Seed of its random numbers, 0 to 2**63 - 1.
        detokenizer: Its own, holding the prompt.
        stop_matcher: Its own.
        arrived_at: When the request arrived.
        keeps_token_ids: Whether deltas report token ids.
    """

    def __init__(
        self,
        *,
        sequence_id: int,
        candidate_index: int,
        seed: int,
        detokenizer: Detokenizer,
        stop_matcher: StopMatcher,
        arrived_at: float,
        keeps_token_ids: bool,
    ) -> None:
        self.sequence_id = sequence_id
        self.candidate_index = candidate_index
        self.seed = seed
        self.status = Status.QUEUED
        self.stop_sequence = ""
        self.output_token_count = 0
        self.timeline = Timeline(arrived_at)
        self._detokenizer = detokenizer
        self._stop_matcher = stop_matcher
        self._keeps_token_ids = keeps_token_ids
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._pending_chars = 0

    @property
    def finished(self) -> bool:
        return self.status >= Status.END_OF_SEQUENCE

    @property
    def pending_chars(self) -> int:
        """Characters, and token ids, that wait to be taken."""
        return self._pending_chars + len(self._token_ids)

    def submit(self, now: float) -> None:
        """It goes to a worker."""
        self.status = Status.PREFILLING
        self.timeline.submitted_at = now

    def requeue(self) -> None:
        """Its worker has not taken it: it waits again."""
        self.status = Status.QUEUED
        self.timeline.submitted_at = None

    def start(self, wait_s: float, prefill_s: float) -> None:
        """Its worker tells how long it waited there, and how long its prefill took."""
        self.timeline.worker_wait_s = wait_s
        self.timeline.prefill_s = prefill_s

    def push(self, token_id: int, now: float) -> None:
        """Takes one generated token. Ends the sequence if it completes a stop sequence; nothing follows an end."""
        if self.finished:
            return
        self.status = Status.DECODING
        self.output_token_count += 1
        self.timeline.token(now)
        if self._keeps_token_ids:
            self._token_ids.append(token_id)
        self._match(self._detokenizer.push(token_id))

    def finish(self, status: Status) -> None:
        """Ends it, unless it has ended.

        What was held back is delivered if the model came to an end by itself; at any other end it may be the beginning
        of a stop sequence.
        """
        if self.finished:
            return
        if status in {Status.END_OF_SEQUENCE, Status.LENGTH}:
            self._flush()
        if not self.finished:
            self.status = status

    def take(self) -> Delta | None:
        """Everything since the last call, merged; None if there is nothing."""
        if not self._texts and not self._token_ids:
            return None
        delta = Delta("".join(self._texts), tuple(self._token_ids))
        self._texts.clear()
        self._token_ids.clear()
        self._pending_chars = 0
        return delta

    def _match(self, text: str) -> None:
        if not text:
            return
        result = self._stop_matcher.push(text)
        self._append(result.text)
        if result.stop_sequence is not None:
            self.stop_sequence = result.stop_sequence
            self.status = Status.STOP_SEQUENCE

    def _flush(self) -> None:
        self._match(self._detokenizer.flush())
        if not self.finished:
            self._append(self._stop_matcher.flush())

    def _append(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self._pending_chars += len(text)
