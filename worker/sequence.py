"""One sequence: what one row of the batch generates, and everything known about it.

Pure data: the scheduler changes it, nobody else does.
"""

from dataclasses import dataclass, field
from enum import IntEnum


class Status(IntEnum):
    """Where a sequence is. Ordered: everything from FINISHED_EOS on has ended."""

    WAITING = 0
    PREFILLING = 1
    RUNNING = 2
    FINISHED_EOS = 3
    FINISHED_LENGTH = 4
    FAILED = 5
    CANCELLED = 6


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How one sequence chooses its tokens. Ranges are checked where requests come in (`messages.py`)."""

    max_new_tokens: int
    """Most tokens to generate, at least 1."""
    do_sample: bool = False
    """Samples if true, else takes the likeliest token."""
    temperature: float = 1.0
    """Divides the logits; above 0."""
    top_k: int = 0
    """Samples among the k likeliest tokens; 0 is off."""
    top_p: float = 1.0
    """Samples among the fewest likeliest tokens with this probability together; 1 is off."""
    min_p: float = 0.0
    """Samples among tokens at least this share as likely as the likeliest; 0 is off."""
    repetition_penalty: float = 1.0
    """Makes tokens of prompt and output less likely; 1 is off."""
    seed: int = 0
    """Key of the random numbers, 0 to 2^63 - 1."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """A prompt and what has been generated for it."""

    sequence_id: int
    """Chosen by whoever submitted it, unique for that owner."""
    prompt: list[int]
    """Token ids, at least one."""
    parameters: SamplingParameters
    owner: int = 0
    """Whoever submitted it: tokens go back there."""
    output: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    error: str = ""
    """Why it failed, in UPPER_SNAKE_CASE; empty unless FAILED."""

    arrived_at: float = 0.0
    """When the engine got it, on the engine's clock, in seconds."""
    prefill_at: float = 0.0
    """When its prefill began."""

    @property
    def is_finished(self) -> bool:
        return self.status >= Status.FINISHED_EOS

    def append(self, token: int, eos_token_ids: frozenset[int]) -> None:
        """Takes the next token, and ends the sequence if that was its last."""
        self.output.append(token)
        if token in eos_token_ids:
            self.status = Status.FINISHED_EOS
        elif len(self.output) >= self.parameters.max_new_tokens:
            self.status = Status.FINISHED_LENGTH

    def fail(self, error: str) -> None:
        self.status = Status.FAILED
        self.error = error
