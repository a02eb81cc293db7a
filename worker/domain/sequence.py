"""One sequence: what one row of the batch generates, and everything known about it.

Pure data: the scheduler changes it, nobody else does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum


class Status(IntEnum):
    """Where a sequence is. Ordered: everything from FINISHED_EOS on has ended."""

    WAITING = 0
    PREFILLING = 1
    RUNNING = 2
    FINISHED_EOS = 3
    FINISHED_STOP_TOKEN = 4
    FINISHED_LENGTH = 5
    FAILED = 6
    CANCELLED = 7


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How one sequence chooses its tokens. Ranges are checked where requests come in (`submission.py`)."""

    max_new_tokens: int
    """Most tokens to generate, at least 1."""
    min_new_tokens: int = 0
    """No token that ends the sequence before there are so many, at most max_new_tokens."""
    eos_token_ids: frozenset[int] = frozenset()
    """The model's own ids that end a sequence; empty for one that ignores them."""
    stop_token_ids: frozenset[int] = frozenset()
    """The request's own ids that end it."""

    do_sample: bool = False
    """Samples if true, else takes the likeliest token."""
    seed: int = 0
    """Key of the random numbers, 0 to 2^63 - 1."""
    temperature: float = 1.0
    """Divides the logits; above 0."""
    top_k: int = 0
    """Samples among the k likeliest tokens; 0 is off."""
    top_p: float = 1.0
    """Samples among the fewest likeliest tokens with this probability together; 1 is off."""
    min_p: float = 0.0
    """Samples among tokens at least this share as likely as the likeliest; 0 is off."""
    typical_p: float = 1.0
    """Samples among the tokens closest to the expected information, with this probability together; 1 is off."""
    epsilon_cutoff: float = 0.0
    """Samples among tokens of at least this probability; 0 is off."""

    repetition_penalty: float = 1.0
    """Makes tokens of prompt and output less likely; 1 is off."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token of the output; 0 is off."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time that the output has it; 0 is off."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens comes twice in prompt and output; 0 is off."""
    exponential_decay: tuple[int, float] | None = None
    """Output tokens from which on the end becomes likelier, and the base of the growth."""

    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of ids that must not come up."""
    allowed_token_ids: frozenset[int] = frozenset()
    """Only these, and those that end the sequence, may come up; empty: all."""
    suppress_tokens: frozenset[int] = frozenset()
    """Ids that must not come up."""
    begin_suppress_tokens: frozenset[int] = frozenset()
    """Ids that must not come up as the first token."""
    forced_bos_token_id: int | None = None
    """What follows a prompt of one token."""
    forced_eos_token_id: int | None = None
    """What comes as token number max_new_tokens."""

    logprobs: bool = False
    """Whether the log-probability and the rank of each token are reported."""
    top_logprobs: int = 0
    """How many of the likeliest tokens are reported beside each reported one."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Ids that end the sequence, the model's own and the request's."""
        return self.eos_token_ids | self.stop_token_ids


class EarlyStopping(Enum):
    """When a beam search ends, once it has as many finished candidates as beams."""

    HEURISTIC = "heuristic"
    """When the best running beam would not do better if it ended now; transformers' False."""
    FIRST = "first"
    """At once; transformers' True."""
    NEVER = "never"
    """When no running beam can do better at any length; transformers' "never"."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Beams:
    """A beam search. Its rows in the batch are sequences of their own, and not those that its results go to."""

    num_beams: int
    length_penalty: float
    early_stopping: EarlyStopping
    candidates: "list[Sequence]"
    """Whom the results go to, best first."""

    @property
    def is_finished(self) -> bool:
        return all(candidate.status >= Status.FINISHED_EOS for candidate in self.candidates)

    def rows(self) -> "list[Sequence]":
        """Returns its rows as they are before the first token."""
        first = self.candidates[0]
        return [
            Sequence(
                sequence_id=first.sequence_id,
                prompt=first.prompt,
                parameters=first.parameters,
                owner=first.owner,
                priority=first.priority,
                arrived_at=first.arrived_at,
                beams=self,
                beam_index=index,
            )
            for index in range(self.num_beams)
        ]


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
    """Tokens generated so far, those included that another worker generated before."""
    status: Status = Status.WAITING
    error: str = ""
    """Why it failed, in UPPER_SNAKE_CASE; empty unless FAILED."""
    score: float | None = None
    """What beam search gave it."""
    beams: Beams | None = None
    """The beam search whose row this is."""
    beam_index: int = 0
    """Which of its beams."""
    priority: int = 0
    """Where memory runs short, rows of a lower priority are preempted first."""

    arrived_at: float = 0.0
    """When the engine was given it, on the engine's clock, in seconds."""
    prefill_at: float | None = None
    """When its prefill first began; None before."""
    first_token_at: float | None = None
    """When it got its first token here; None before."""

    @property
    def is_finished(self) -> bool:
        return self.status >= Status.FINISHED_EOS or (self.beams is not None and self.beams.is_finished)

    @property
    def is_in_memory(self) -> bool:
        """Whether it has a row of the group or the batch, and is to keep it."""
        return not self.is_finished and self.status is not Status.WAITING

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt) + len(self.output)

    def append(self, token: int) -> None:
        """Takes the next token, and ends the sequence if that was its last."""
        self.output.append(token)
        if token in self.parameters.eos_token_ids:
            self.status = Status.FINISHED_EOS
        elif token in self.parameters.stop_token_ids:
            self.status = Status.FINISHED_STOP_TOKEN
        elif len(self.output) >= self.parameters.max_new_tokens:
            self.status = Status.FINISHED_LENGTH

    def conclude(self, tokens: list[int], score: float) -> None:
        """Takes the result of a beam search, whose last token says why it ended."""
        self.output = tokens[:-1]
        self.score = score
        self.append(tokens[-1])
        if not self.is_finished:
            self.status = Status.FINISHED_LENGTH

    def fail(self, error: str) -> None:
        self.status = Status.FAILED
        self.error = error


@dataclass(slots=True, eq=False)
class Root:
    """Tokens that are prefilled once, as one row, and the rows of the batch that go on from there."""

    tokens: list[int]
    """At least one: a prompt, or a prompt and the output so far of a sequence that is computed again."""
    sequences: list[Sequence]
    """The rows, at least one."""
    prompt_logprobs: int | None = None
    """How many of the likeliest tokens to report beside each token of the prompt; None: nothing is reported."""
    reported: int = 0
    """Tokens of the prompt that have been reported, or need not be, the first one aside."""

    def prune(self) -> bool:
        """Removes the rows that have ended; returns whether any is left."""
        self.sequences = [sequence for sequence in self.sequences if not sequence.is_finished]
        return bool(self.sequences)

    @property
    def is_wanted(self) -> bool:
        """Whether a row of it is to be in memory."""
        return any(sequence.is_in_memory for sequence in self.sequences)

    @property
    def is_divisible(self) -> bool:
        """Whether its rows may run at different times; those of a beam search may not."""
        return len(self.sequences) > 1 and self.sequences[0].beams is None

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.prompt_logprobs is not None and self.reported < len(self.sequences[0].prompt) - 1


def reported(rows: Iterable[Sequence]) -> list[Sequence]:
    """Returns whom rows are reported as: themselves, or the candidates of their beam search, each once."""
    found = [candidate for row in rows for candidate in (row.beams.candidates if row.beams else [row])]
    return list(dict.fromkeys(found))


def fail_all(sequences: list[Sequence], error: str) -> list[Sequence]:
    """Ends sequences with an error; returns them."""
    for sequence in sequences:
        sequence.fail(error)
    return sequences
