"""The edge to the workers: the internal protobuf messages become values of the domain, and the other way round."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf import duration_pb2

from textserve.internal.v1 import worker_pb2 as pb

from .generation import Generation
from .liveness import Heartbeat
from .messages import read_config, write_config
from .request import ModelFacts
from .sequence import Status

_END_STATUSES = {
    pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE: Status.END_OF_SEQUENCE,
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
    """The end of a sequence; `error` is set if the status is FAILED."""

    sequence_id: int
    status: Status
    error: str


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one engine step; `sequence_ids` and `token_ids` run in parallel."""

    sequence_ids: Sequence[int]
    token_ids: Sequence[int]
    starts: tuple[Start, ...] = ()
    finishes: tuple[Finish, ...] = ()


@dataclass(frozen=True, slots=True)
class Credits:
    """Most sequences that may be outstanding."""

    sequence_limit: int


@dataclass(frozen=True, slots=True)
class Draining:
    """The worker takes nothing new."""


Event = Step | Credits | Heartbeat | Draining


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
    )
    return Description(facts=facts, incarnation_id=message.incarnation_id, devices=tuple(message.devices))


def read_event(message: pb.RunResponse) -> Event | None:
    """What a worker says on its stream; None for what a newer worker may say and this gateway does not know."""
    match message.WhichOneof("message"):
        case "step":
            return _read_step(message.step)
        case "credits":
            return Credits(message.credits.sequence_limit)
        case "heartbeat":
            return _read_heartbeat(message.heartbeat)
        case "draining":
            return Draining()
        case None:
            return None


def submit(generation: Generation) -> pb.RunRequest:
    """Hands over a generation."""
    config = write_config(generation.config)
    config.ClearField("seed")
    sequences = [
        pb.SubmittedSequence(sequence_id=sequence.sequence_id, seed=sequence.seed) for sequence in generation.sequences
    ]
    return pb.RunRequest(
        submit=pb.Submit(sequences=sequences, prompt_token_ids=generation.prompt_ids, generation_config=config)
    )


def cancel(sequence_ids: Iterable[int]) -> pb.RunRequest:
    """Drops sequences."""
    return pb.RunRequest(cancel=pb.Cancel(sequence_ids=sequence_ids))


def demand(queued_count: int) -> pb.RunRequest:
    """Tells how many sequences wait."""
    return pb.RunRequest(demand=pb.Demand(queued_count=queued_count))


def _read_step(step: pb.Step) -> Step:
    return Step(
        sequence_ids=step.sequence_ids,
        token_ids=step.token_ids,
        starts=tuple(Start(start.sequence_id, _seconds(start.wait), _seconds(start.prefill)) for start in step.starts),
        finishes=tuple(
            Finish(finish.sequence_id, _END_STATUSES.get(finish.reason, Status.FAILED), finish.error)
            for finish in step.finishes
        ),
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
