"""One request on its way: its candidates, and what they share. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .sequence import Sequence, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effective import EffectiveConfig
    from .errors import ServiceError
    from .request import ModelFacts, OutputOptions


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
    """The candidates, by index."""

    on_change: Callable[[], None] = field(default=_ignore, init=False)
    """Called when there is something new to deliver. Whoever delivers sets it, before the generation is submitted."""

    worker: str = field(default="", init=False)
    """The worker that it was submitted to."""

    error: ServiceError | None = field(default=None, init=False)
    """Why it failed."""

    @property
    def finished(self) -> bool:
        return all(sequence.finished for sequence in self.sequences)

    @property
    def status(self) -> Status:
        """That of the candidate that is least far."""
        return min(sequence.status for sequence in self.sequences)

    @property
    def output_token_count(self) -> int:
        return sum(sequence.output_token_count for sequence in self.sequences)

    @property
    def pending_chars(self) -> int:
        return sum(sequence.pending_chars for sequence in self.sequences)

    def submit(self, worker: str, now: float) -> None:
        """It goes to `worker`."""
        self.worker = worker
        for sequence in self.sequences:
            sequence.submit(now)

    def requeue(self) -> None:
        """Its worker has not taken it: it waits again."""
        self.worker = ""
        for sequence in self.sequences:
            sequence.requeue()

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
