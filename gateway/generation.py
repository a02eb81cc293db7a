"""One request on its way: its candidates, and what they share. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .logprobs import PromptPart, ReportedToken, TokenLogprob
from .ranking import best
from .sequence import Sequence, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .effective import EffectiveConfig
    from .errors import ServiceError
    from .request import ModelFacts, OutputOptions
    from .timing import Timing


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

    on_change: Callable[[], None] = field(default=_ignore, init=False)
    """Called when there is something new to deliver. Whoever delivers sets it, before the generation is submitted."""

    worker: str = field(default="", init=False)
    """The worker that it was submitted to last."""

    attempts: int = field(default=0, init=False)
    """How often it was submitted."""

    deaths: int = field(default=0, init=False)
    """How many workers have died while they ran it."""

    error: ServiceError | None = field(default=None, init=False)
    """Why it failed."""

    _prompt_logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob], init=False)
    _prompt_logprobs_taken: int = field(default=0, init=False)

    @property
    def finished(self) -> bool:
        return all(sequence.finished for sequence in self.sequences)

    @property
    def unfinished(self) -> tuple[Sequence, ...]:
        """The sequences that have not ended."""
        return tuple(sequence for sequence in self.sequences if not sequence.finished)

    @property
    def status(self) -> Status:
        """That of the candidate that is least far."""
        return min(sequence.status for sequence in self.sequences)

    @property
    def row_count(self) -> int:
        """Rows that it takes on a worker."""
        return max(self.config.num_beams, len(self.sequences))

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
        return sum(sequence.output_token_count for sequence in self.sequences)

    @property
    def pending_chars(self) -> int:
        return sum(sequence.pending_chars for sequence in self.sequences)

    def timing(self, now: float) -> Timing:
        """That of the candidate that went on longest."""
        return max((sequence.timeline.timing(now) for sequence in self.sequences), key=lambda timing: timing.decode_s)

    def submit(self, worker: str, now: float) -> None:
        """It goes to `worker`, to be begun or to be gone on with."""
        self.worker = worker
        self.attempts += 1
        for sequence in self.unfinished:
            sequence.submit(now)

    def requeue(self) -> None:
        """Its worker has not taken it, or is lost: it waits again."""
        self.worker = ""
        for sequence in self.unfinished:
            sequence.requeue()

    def add_prompt_logprobs(self, position: int, entries: Iterable[TokenLogprob]) -> None:
        """Takes in a part of the prompt's log-probabilities; what came before, from another worker, is dropped.

        Raises ValueError if the parts leave a gap, or are longer than the prompt.
        """
        expected = self._prompt_logprob_count + 1
        entries = tuple(entries)
        if not 1 <= position <= expected or position + len(entries) > len(self.prompt_ids):
            raise ValueError(f"{len(entries)} log-probabilities at {position} of a prompt instead of at {expected}")
        self._prompt_logprobs.extend(entries[expected - position :])

    def take_prompt_logprobs(self) -> PromptPart | None:
        """Everything since the last call; None if there is nothing."""
        if not self._prompt_logprobs:
            return None
        position = self._prompt_logprobs_taken + 1
        token_ids = self.prompt_ids[position : position + len(self._prompt_logprobs)]
        part = zip(token_ids, self._prompt_logprobs, strict=True)
        tokens = tuple(ReportedToken(token_id, 0, logprob) for token_id, logprob in part)
        self._prompt_logprobs_taken += len(tokens)
        self._prompt_logprobs.clear()
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
