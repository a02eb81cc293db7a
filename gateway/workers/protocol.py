"""The edge to the workers: the internal protobuf messages become values of the domain, and the other way round."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from google.protobuf import duration_pb2

from textserve.internal.v1 import worker_pb2 as pb

from ..domain.generation import Generation
from ..domain.request import ModelFacts
from ..domain.sequence import Status, TokenLogprob, has_logprobs
from ..domain.tenancy import Priority
from .config_messages import read_config, write_config
from .liveness import Heartbeat

_END_STATUSES = {
    pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE: Status.END_OF_SEQUENCE,
    pb.SEQUENCE_FINISH_REASON_STOP_TOKEN: Status.STOP_TOKEN,
    pb.SEQUENCE_FINISH_REASON_LENGTH: Status.LENGTH,
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a worker says about itself and its model."""

    facts: ModelFacts
    incarnation_id: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """How long a sequence took to its first token, in seconds."""

    sequence_id: int
    wait_s: float
    prefill_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a sequence; `error` is set if the status is FAILED, `score` after a beam search."""

    sequence_id: int
    status: Status
    error: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of engine steps; `sequence_ids`, `token_ids` and, unless empty, `logprobs` run in parallel."""

    sequence_ids: Sequence[int]
    token_ids: Sequence[int]
    starts: tuple[Start, ...] = ()
    finishes: tuple[Finish, ...] = ()
    logprobs: tuple[TokenLogprob | None, ...] = ()

    def tokens(self) -> Iterator[tuple[int, int, TokenLogprob | None]]:
        """Each token: its sequence's id, its own, and its log-probability if its sequence asked for it.

        Raises ValueError if they do not run in parallel.
        """
        logprobs = self.logprobs or repeat(None, len(self.token_ids))
        return zip(self.sequence_ids, self.token_ids, logprobs, strict=True)


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of consecutive prompt tokens of a submission, which its first sequence stands for.

    `position` is that of the first one, from 1.
    """

    sequence_id: int
    position: int
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Credits:
    """Most sequences that may be outstanding."""

    sequence_limit: int


@dataclass(frozen=True, slots=True)
class Draining:
    """The worker takes nothing new."""


Event = Step | PromptLogprobs | Credits | Heartbeat | Draining


def read_description(message: pb.DescribeResponse) -> Description:
    """What `Describe` answered."""
    facts = ModelFacts(
        name=message.model,
        architecture=message.architecture,
        context_length=message.context_length,
        vocab_size=message.vocab_size,
        quantization=message.quantization,
        quantized_share=message.quantized_share,
        fingerprint=message.fingerprint,
        generation_defaults=read_config(message.generation_defaults),
        eos_token_ids=tuple(message.eos_token_ids),
        tokenizer_sha256=message.tokenizer_sha256,
        max_rows=message.max_rows,
        prompt_logprobs_limit=message.prompt_logprobs_limit,
        pool_tokens=message.pool_tokens,
        stop_sequences=tuple(message.default_stop_sequences),
    )
    return Description(facts=facts, incarnation_id=message.incarnation_id, devices=tuple(message.devices))


def read_event(message: pb.RunResponse) -> Event | None:
    """What a worker says on its stream; None for what a newer worker may say and this gateway does not know."""
    match message.WhichOneof("message"):
        case "step":
            return _read_step(message.step)
        case "prompt_logprobs":
            part = message.prompt_logprobs
            return PromptLogprobs(part.sequence_id, part.position, tuple(map(_read_logprob, part.logprobs)))
        case "credits":
            return Credits(message.credits.sequence_limit)
        case "heartbeat":
            return _read_heartbeat(message.heartbeat)
        case "draining":
            return Draining()
        case None:
            return None


def submit(generation: Generation) -> pb.RunRequest:
    """Hands over what of a generation has not ended, to be begun or to be gone on with."""
    config = write_config(generation.config)
    config.ClearField("seed")
    return pb.RunRequest(
        submit=pb.Submit(
            sequences=_submitted(generation),
            prompt_token_ids=generation.prompt_ids,
            generation_config=config,
            logprobs=has_logprobs(generation.sequences[0].sequence_id),
            top_logprobs=generation.output.top_logprobs,
            prompt_logprobs=generation.needs_prompt_logprobs,
            priority=Priority.BATCH - generation.caller.priority,
        )
    )


def cancel(sequence_ids: Iterable[int]) -> pb.RunRequest:
    """Drops sequences."""
    return pb.RunRequest(cancel=pb.Cancel(sequence_ids=sequence_ids))


def demand(queued_count: int) -> pb.RunRequest:
    """Tells how many sequences wait."""
    return pb.RunRequest(demand=pb.Demand(queued_count=queued_count))


def _submitted(generation: Generation) -> Iterator[pb.SubmittedSequence]:
    for sequence in generation.unfinished:
        yield pb.SubmittedSequence(
            sequence_id=sequence.sequence_id, seed=sequence.seed, output_token_ids=sequence.output_token_ids
        )


def _read_step(step: pb.Step) -> Step:
    return Step(
        sequence_ids=step.sequence_ids,
        token_ids=step.token_ids,
        starts=tuple(Start(start.sequence_id, _seconds(start.wait), _seconds(start.prefill)) for start in step.starts),
        finishes=tuple(map(_read_finish, step.finishes)),
        logprobs=_read_logprobs(step),
    )


def _read_finish(finish: pb.SequenceFinish) -> Finish:
    return Finish(
        finish.sequence_id,
        _END_STATUSES.get(finish.reason, Status.FAILED),
        finish.error,
        finish.score if finish.HasField("score") else None,
    )


def _read_logprobs(step: pb.Step) -> tuple[TokenLogprob | None, ...]:
    """One for each token, None where its sequence has not asked for it; nothing if none has.

    Raises ValueError if there are more or fewer than were asked for.
    """
    having = [has_logprobs(sequence_id) for sequence_id in step.sequence_ids]
    if sum(having) != len(step.logprobs):
        raise ValueError(f"{len(step.logprobs)} log-probabilities for {sum(having)} tokens")
    if not step.logprobs:
        return ()
    logprobs = map(_read_logprob, step.logprobs)
    return tuple(next(logprobs) if has else None for has in having)


def _read_logprob(message: pb.TokenLogprobs) -> TokenLogprob:
    return TokenLogprob(
        message.logprob, message.rank, tuple(zip(message.top_token_ids, message.top_logprobs, strict=True))
    )


def _read_heartbeat(message: pb.Heartbeat) -> Heartbeat:
    return Heartbeat(
        incarnation_id=message.incarnation_id,
        step=message.step,
        step_limit_s=_seconds(message.step_limit),
        step_elapsed_s=_seconds(message.step_elapsed),
    )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
