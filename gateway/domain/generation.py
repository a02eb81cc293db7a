"""One request on its way: its candidates, and what they share. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .sequence import PromptPart, ReportedToken, Sequence, Status, TokenLogprob
from .tenancy import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .errors import ServiceError
    from .generation_config import EffectiveConfig
    from .request import ModelFacts, OutputOptions
    from .sequence import Timing

HORIZON_S = 60.0
"""A deadline that is further off than this, from the arrival on, is no more urgent than this."""

NEW_NAMES = 1 << 40
"""Added to the sequence ids of what goes on under new ones: never reached; even, as ids tell of log-probabilities."""


def _ignore() -> None:
    """Nobody delivers yet."""


@dataclass(slots=True, eq=False)
class Generation:
    """A request that has been admitted. It is queued, routed and submitted whole."""

    facts: ModelFacts
    """The model that it runs on."""

    prompt_ids: list[int]
    """The prompt, at least one token."""

    prompt_text: str
    """The decoded prompt if it is to be echoed, else empty."""

    config: EffectiveConfig
    """The effective parameters."""

    output: OutputOptions
    """What the answer contains."""

    sequences: tuple[Sequence, ...]
    """What is generated, by index."""

    stop_sequences: tuple[str, ...] = ()
    """What ends its candidates: the request's, else the model's own."""

    caller: Caller = field(default_factory=Caller)
    """Whose it is."""

    deadline_at: float | None = None
    """When it is of no use any more, in seconds of the gateway's clock."""

    server_request_id: str = ""
    """The gateway's own name for the call that it is generated for."""

    number: int = field(init=False)
    """Which of the gateway's requests it is: smaller for the older."""

    on_change: Callable[[], None] = field(default=_ignore, init=False)
    """Called when there is something new to deliver. Whoever delivers sets it, before the generation is submitted."""

    worker: str = field(default="", init=False)
    """The worker that has it; empty while it waits."""

    last_worker: str = field(default="", init=False)
    """The worker that it was submitted to last."""

    attempts: int = field(default=0, init=False)
    """How often it was submitted."""

    deaths: int = field(default=0, init=False)
    """How many workers have died while they ran it."""

    preemptions: int = field(default=0, init=False)
    """How often it was taken back from a worker to make way."""

    is_protected: bool = field(default=False, init=False)
    """Whether it has waited for so long that it makes way for nothing."""

    error: ServiceError | None = field(default=None, init=False)
    """Why it failed."""

    _prompt_logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob], init=False)
    _prompt_logprobs_taken: int = field(default=0, init=False)
    _ended_count: int = field(default=0, init=False)
    """How many sequences have ended before the first that has not."""

    def __post_init__(self) -> None:
        # Sequences are numbered in the order of their arrival.
        self.number = self.sequences[0].sequence_id

    @property
    def arrived_at(self) -> float:
        """When it arrived, in seconds of the gateway's clock."""
        return self.sequences[0].timeline.arrived_at

    @property
    def due(self) -> float:
        """What its urgency is judged by: its deadline, or a horizon, so that nothing goes before it for ever."""
        horizon = self.arrived_at + HORIZON_S
        return horizon if self.deadline_at is None else min(self.deadline_at, horizon)

    @property
    def finished(self) -> bool:
        # Asked after each token of each candidate: what has ended does not begin again, and is not looked at again.
        sequences, count = self.sequences, self._ended_count
        while count < len(sequences) and sequences[count].status >= Status.END_OF_SEQUENCE:
            count += 1
        self._ended_count = count
        return count == len(sequences)

    @property
    def unfinished(self) -> tuple[Sequence, ...]:
        """The sequences that have not ended."""
        return tuple([each for each in self.sequences if each.status < Status.END_OF_SEQUENCE])

    @property
    def status(self) -> Status:
        """That of the candidate that is least far."""
        return min([sequence.status for sequence in self.sequences])

    @property
    def row_count(self) -> int:
        """Rows that it takes on a worker: its beams, else its candidates, but for those that have ended."""
        row_count = max(self.config.num_beams, len(self.sequences))
        for sequence in self.sequences:
            row_count -= sequence.status >= Status.END_OF_SEQUENCE
        return row_count

    def fits(self, facts: ModelFacts) -> bool:
        """Whether a worker of these facts can run it if it has nothing else to do."""
        beams = self.config.num_beams
        return (
            self.row_count <= max(1, facts.max_rows)
            and not (self.needs_prompt_logprobs and len(self.prompt_ids) > facts.prompt_logprobs_limit)
            and (beams == 1 or beams * (len(self.prompt_ids) + self.config.max_new_tokens) <= facts.pool_tokens)
        )

    @property
    def candidates(self) -> list[Sequence]:
        """What is returned once everything has ended, in the order of the answer."""
        if self.config.is_ranked:
            return best(self.sequences, self.config.num_return_sequences)
        return list(self.sequences)

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of the prompt were asked for and have not all come."""
        return self.output.prompt_logprobs and self._prompt_logprob_count < len(self.prompt_ids) - 1

    @property
    def output_token_count(self) -> int:
        return sum([len(sequence.output_token_ids) for sequence in self.sequences])

    @property
    def pending_chars(self) -> int:
        return sum([sequence.pending_chars for sequence in self.sequences])

    @property
    def answer_chars(self) -> int:
        """How much work the whole answer is, in characters of a prompt that take as long to tokenize."""
        config = self.config
        id_lists = (config.allowed_token_ids, config.suppress_tokens, config.begin_suppress_tokens)
        echoed = len(self.sequences) * len(self.prompt_text)
        numbers = len(self._prompt_logprobs) * (1 + self.output.top_logprobs)
        return self.pending_chars + echoed + numbers + sum(map(len, id_lists))

    def timing(self, now: float) -> Timing:
        """That of the candidate that went on longest."""
        return max((sequence.timeline.timing(now) for sequence in self.sequences), key=lambda timing: timing.decode_s)

    def submit(self, worker: str, now: float) -> None:
        """It goes to `worker`, to be begun or to be gone on with."""
        self.worker = self.last_worker = worker
        self.attempts += 1
        for sequence in self.unfinished:
            sequence.submit(now)

    def requeue(self) -> None:
        """Its worker has not taken it, or is lost: it waits again."""
        self.worker = ""
        for sequence in self.unfinished:
            sequence.requeue()

    def preempt(self) -> None:
        """It makes way for others, and waits again.

        It goes on under new names, maybe on the same worker's stream, where the old ones are not used twice: what the
        worker has still sent under those is made again.
        """
        self.preemptions += 1
        self.requeue()
        for sequence in self.unfinished:
            sequence.sequence_id += NEW_NAMES

    def add_prompt_logprobs(self, position: int, entries: Iterable[TokenLogprob]) -> None:
        """Takes in a part of the prompt's log-probabilities; what came before, from another worker, is dropped.

        Raises ValueError if the parts leave a gap, or are longer than the prompt.
        """
        expected = self._prompt_logprob_count + 1
        entries = tuple(entries)
        if not 1 <= position <= expected or position + len(entries) > len(self.prompt_ids):
            raise ValueError(f"{len(entries)} log-probabilities at {position} of a prompt instead of at {expected}")
        self._prompt_logprobs.extend(entries[expected - position :])

    def take_prompt_logprobs(self, most: int | None = None) -> PromptPart | None:
        """What has come since the last call, the first `most` of it if that is given; None if there is nothing."""
        if not self._prompt_logprobs:
            return None
        position = self._prompt_logprobs_taken + 1
        taken = self._prompt_logprobs[:most]
        token_ids = self.prompt_ids[position : position + len(taken)]
        tokens = tuple(ReportedToken(token_id, 0, logprob) for token_id, logprob in zip(token_ids, taken, strict=True))
        self._prompt_logprobs_taken += len(tokens)
        del self._prompt_logprobs[: len(tokens)]
        return PromptPart(position, tokens)

    def finish(self, status: Status) -> None:
        """Ends the candidates that have not ended."""
        for sequence in self.sequences:
            sequence.finish(status)

    def fail(self, error: ServiceError) -> None:
        """Ends it with an error, unless it has ended; what it has made so far is still delivered."""
        if self.finished:
            return
        self.error = error
        self.finish(Status.FAILED)
        self.on_change()

    @property
    def _prompt_logprob_count(self) -> int:
        return self._prompt_logprobs_taken + len(self._prompt_logprobs)


def best(sequences: Iterable[Sequence], count: int) -> list[Sequence]:
    """The `count` sequences with the highest mean log-probability of their tokens, best first.

    Of equals the one with the lower index goes first; one without any token goes last.
    """
    return sorted(sequences, key=_badness)[:count]


def _badness(sequence: Sequence) -> tuple[float, int]:
    mean = sequence.mean_logprob
    return (math.inf if mean is None else -mean, sequence.candidate_index)
