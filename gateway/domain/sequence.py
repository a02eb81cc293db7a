"""One candidate on its way: its status, its tokens and their log-probabilities, its times, its names. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .request import OutputOptions


class OutputText(Protocol):
    """Makes text of the tokens of one sequence, and finds where it ends; `text.output_text` says how."""

    chars: int
    """Characters that are complete, those included that are held back because they may become a stop sequence."""

    stop_sequence: str | None
    """The stop sequence that has ended the text."""

    def push(self, token_id: int) -> str:
        """Takes the next token; returns the text that is certain with it."""
        ...

    def flush(self) -> str:
        """Returns what was held back, at an end without a stop sequence."""
        ...


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """What a worker says about one token.

    Logarithms are natural, of the softmax of the model's unmodified logits; ranks count from 1; `top` has the likeliest
    tokens with their log-probabilities, likeliest first.
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ReportedToken:
    """A token with its log-probability, as the answer reports it.

    text_offset counts the characters of the candidate's text that were complete before the token. Behind a stop
    sequence's beginning it counts on, so it may lie behind the end of the text that is delivered.
    """

    token_id: int
    text_offset: int
    logprob: TokenLogprob


@dataclass(frozen=True, slots=True)
class PromptPart:
    """Consecutive tokens of a prompt; `position` is that of the first one, from 1."""

    position: int
    tokens: tuple[ReportedToken, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds, as the answer reports them."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    time_to_first_token_s: float = 0.0


@dataclass(slots=True)
class Timeline:
    """The instants of a sequence, as they become known: seconds of a monotonic clock. Its tokens set their own."""

    arrived_at: float
    submitted_at: float | None = None
    worker_wait_s: float = 0.0
    prefill_s: float = 0.0
    first_token_at: float | None = None
    last_token_at: float | None = None

    def submit(self, now: float) -> None:
        """It goes to a worker at `now`. What comes after the first token is not counted: it has been served."""
        if self.first_token_at is None:
            self.submitted_at = now

    def requeue(self) -> None:
        """It waits for another worker."""
        if self.first_token_at is None:
            self.submitted_at = None

    def start(self, wait_s: float, prefill_s: float) -> None:
        """Its worker's account of the time before the first token, in seconds."""
        if self.first_token_at is None:
            self.worker_wait_s, self.prefill_s = wait_s, prefill_s

    def timing(self, now: float) -> Timing:
        """The durations, for a sequence that ends, or is looked at, at `now`."""
        submitted_at = now if self.submitted_at is None else self.submitted_at
        queue_s = submitted_at - self.arrived_at + self.worker_wait_s
        if self.first_token_at is None or self.last_token_at is None:
            return Timing(queue_s=queue_s, prefill_s=self.prefill_s)
        return Timing(
            queue_s=queue_s,
            prefill_s=self.prefill_s,
            decode_s=self.last_token_at - self.first_token_at,
            time_to_first_token_s=self.first_token_at - self.arrived_at,
        )


class SequenceIds:
    """Gives out the names of sequences towards the workers, each once, to whatever thread.

    A step has log-probabilities for those tokens only whose sequence asked for them, and a worker's last tokens of a
    sequence may come when this gateway has let go of it. So its id tells whether they have any: the odd ones do.
    """

    def __init__(self) -> None:
        self._counts = count(1)

    def next(self, *, has_logprobs: bool) -> int:
        """An id for a sequence whose tokens come with, or without, log-probabilities. At least 2."""
        return 2 * next(self._counts) + has_logprobs


def has_logprobs(sequence_id: int) -> bool:
    """Whether a sequence's tokens come with log-probabilities."""
    return sequence_id % 2 == 1


class Status(IntEnum):
    """Where a sequence is. Everything from END_OF_SEQUENCE on is finished, and is the reason why."""

    QUEUED = 0
    PREFILLING = 1
    DECODING = 2
    END_OF_SEQUENCE = 3
    STOP_SEQUENCE = 4
    STOP_TOKEN = 5
    LENGTH = 6
    TIME_LIMIT = 7
    CANCELLED = 8
    DEADLINE = 9
    FAILED = 10


WHOLE = frozenset({Status.END_OF_SEQUENCE, Status.STOP_TOKEN, Status.LENGTH, Status.TIME_LIMIT, Status.DEADLINE})
"""Ends behind which nothing would follow: what was held back is then text."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Text, token ids and log-probabilities that follow what was taken before."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[ReportedToken, ...] = ()


class Sequence:
    """The state of one candidate. Tokens are pushed in by its worker's session, deltas are taken out by its writer.

    Args:
        sequence_id: Its name towards the workers, unique in this gateway.
        candidate_index: Its position among the candidates of its generation, from 0.
        seed: Seed of its random numbers, 0 to 2**63 - 1.
        text: Makes text of its tokens; its own.
        output: What deltas report beside the text.
        arrived_at: When the request arrived.
    """

    def __init__(
        self,
        *,
        sequence_id: int,
        candidate_index: int,
        seed: int,
        text: OutputText,
        output: OutputOptions,
        arrived_at: float,
    ) -> None:
        self.sequence_id = sequence_id
        self.candidate_index = candidate_index
        self.seed = seed
        self.status = Status.QUEUED
        self.score: float | None = None
        """What beam search ranked it by, once it has ended."""
        self.output_token_ids: list[int] = []
        """Everything generated so far: another worker can go on behind it."""
        self.resumed = False
        """Whether it was gone on with: by another submission, or behind tokens that its caller held."""
        self.holds_echo = False
        """Whether its caller holds what came before its first token."""
        self.timeline = Timeline(arrived_at)
        self._text = text
        self._output = output
        self._logprob_sum = 0.0
        self._texts: list[str] = []
        self._logprobs: list[ReportedToken] = []
        self._taken_token_count = 0
        self.pending_chars = 0
        """Characters that wait to be taken; a token id, and each number beside it, counts as one."""
        self._end_taken = False

    @property
    def finished(self) -> bool:
        return self.status >= Status.END_OF_SEQUENCE

    @property
    def stop_sequence(self) -> str:
        """The stop sequence that ended it, else empty."""
        return self._text.stop_sequence or ""

    @property
    def output_token_count(self) -> int:
        return len(self.output_token_ids)

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability of its tokens, if they came with any; None without a token."""
        return self._logprob_sum / self.output_token_count if self.output_token_ids else None

    def submit(self, now: float) -> None:
        """It goes to a worker, behind what there is of it."""
        self.resumed = self.resumed or bool(self.output_token_ids)
        self.status = Status.PREFILLING
        self.timeline.submit(now)

    def requeue(self) -> None:
        """Its worker has not taken it, or is lost: it waits again."""
        self.status = Status.QUEUED
        self.timeline.requeue()

    def start(self, wait_s: float, prefill_s: float) -> None:
        """Its worker tells how long it waited there, and how long its prefill took."""
        self.timeline.start(wait_s, prefill_s)

    def replay(self, token_id: int) -> None:
        """Takes a token that its caller holds from another call, before anything else."""
        self.output_token_ids.append(token_id)
        self.pending_chars += self._output.token_ids
        self._append(self._text.push(token_id))

    def hold_as_taken(self) -> None:
        """What was replayed, and an end that followed, was delivered with it: only what comes now is new."""
        self.holds_echo = True
        self.resumed = bool(self.output_token_ids)
        self.take()

    def push(self, token_id: int, now: float, logprob: TokenLogprob | None = None) -> None:
        """Takes one generated token. Ends the sequence if it completes a stop sequence; nothing follows an end."""
        if self.status >= Status.END_OF_SEQUENCE:
            return
        self.status = Status.DECODING
        if self.timeline.first_token_at is None:
            self.timeline.first_token_at = now
        self.timeline.last_token_at = now
        if logprob is not None:
            self._report(token_id, logprob)
        self.output_token_ids.append(token_id)
        self.pending_chars += self._output.token_ids
        self._append(self._text.push(token_id))

    def finish(self, status: Status, score: float | None = None) -> None:
        """Ends it, unless it has ended.

        What was held back is delivered if nothing would follow (`WHOLE`); at any other end it may be the beginning of a
        stop sequence.
        """
        if self.finished:
            return
        if status in WHOLE:
            self._append(self._text.flush())
        if not self.finished:
            self.status = status
            self.score = score

    def take(self) -> Delta | None:
        """Everything since the last call, merged; None if there is nothing."""
        if not self.pending_chars:
            return None
        token_ids = self.output_token_ids[self._taken_token_count :] if self._output.token_ids else ()
        delta = Delta("".join(self._texts), tuple(token_ids), tuple(self._logprobs))
        self._texts.clear()
        self._logprobs.clear()
        self._taken_token_count = len(self.output_token_ids)
        self.pending_chars = 0
        return delta

    def take_end(self) -> bool:
        """Whether it has ended other than by a failure, and that was not told before."""
        is_news = self.finished and self.status is not Status.FAILED and not self._end_taken
        self._end_taken = self._end_taken or is_news
        return is_news

    def _report(self, token_id: int, logprob: TokenLogprob) -> None:
        self._logprob_sum += logprob.logprob
        if self._output.logprobs:
            self._logprobs.append(ReportedToken(token_id, self._text.chars, logprob))
            self.pending_chars += 1 + self._output.top_logprobs

    def _append(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self.pending_chars += len(text)
        if self._text.stop_sequence is not None:
            self.status = Status.STOP_SEQUENCE
