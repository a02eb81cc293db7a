"""The edge to the workers: the internal protobuf messages become values of the domain, and the other way round.

The parameters are the same message towards callers and workers, and are read and written here for both.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from google.protobuf import duration_pb2

from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2

from ..domain.generation import Generation
from ..domain.generation_config import EffectiveConfig, ExponentialDecay, GenerationConfig, set_fields
from ..domain.request import ModelFacts
from ..domain.sequence import Status, TokenLogprob, has_logprobs
from ..domain.tenancy import Priority
from ..domain.worker_words import (
    Credits,
    Description,
    Draining,
    Event,
    Finish,
    Heartbeat,
    PromptLogprobs,
    Start,
    Step,
)

_END_STATUSES = {
    pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE: Status.END_OF_SEQUENCE,
    pb.SEQUENCE_FINISH_REASON_STOP_TOKEN: Status.STOP_TOKEN,
    pb.SEQUENCE_FINISH_REASON_LENGTH: Status.LENGTH,
}
_ID_LISTS = ("stop_token_ids", "allowed_token_ids", "suppress_tokens", "begin_suppress_tokens")
_SPECIAL = frozenset(
    {*_ID_LISTS, "logit_bias", "bad_words_ids", "early_stopping", "exponential_decay_length_penalty", "max_time"}
)
_SCALARS = frozenset(field.name for field in fields(GenerationConfig)) - _SPECIAL


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
    """What a worker says on its stream; None for what a newer worker may say and this gateway does not know.

    Raises ValueError if a step has more or fewer log-probabilities than were asked for.
    """
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


def read_config(message: generation_pb2.GenerationConfig) -> GenerationConfig:
    """The parameters that are set."""
    values: dict[str, Any] = {field.name: value for field, value in message.ListFields() if field.name in _SCALARS}
    values |= {name: tuple(getattr(message, name)) for name in _ID_LISTS}
    return GenerationConfig(
        **values,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        bad_words_ids=tuple(tuple(words.ids) for words in message.bad_words_ids),
        early_stopping=message.early_stopping or None,
        exponential_decay_length_penalty=_read_decay(message),
        max_time=_seconds(message.max_time) if message.HasField("max_time") else None,
    )


def write_config(config: GenerationConfig | EffectiveConfig) -> generation_pb2.GenerationConfig:
    """The parameters that are set."""
    decay = config.exponential_decay_length_penalty
    return generation_pb2.GenerationConfig(
        **set_fields(config)
        | {
            "logit_bias": dict(config.logit_bias),
            "bad_words_ids": [generation_pb2.TokenSequence(ids=ids) for ids in config.bad_words_ids],
            "exponential_decay_length_penalty": decay
            and generation_pb2.ExponentialDecayLengthPenalty(start_index=decay.start_index, factor=decay.factor),
            "max_time": None if config.max_time is None else duration(config.max_time),
        }
    )


def _submitted(generation: Generation) -> Iterator[pb.SubmittedSequence]:
    for sequence in generation.unfinished:
        yield pb.SubmittedSequence(
            sequence_id=sequence.sequence_id, seed=sequence.seed, output_token_ids=sequence.output_token_ids
        )


# `has_logprobs` of each token's sequence, without a call for each: 1 for an odd id.
_HAS_LOGPROBS = (1).__and__


def _read_step(step: pb.Step) -> Step:
    asked_count = sum(map(_HAS_LOGPROBS, step.sequence_ids))
    if asked_count != len(step.logprobs):
        raise ValueError(f"{len(step.logprobs)} log-probabilities for {asked_count} tokens")
    return Step(
        step.sequence_ids,
        step.token_ids,
        tuple(map(_read_start, step.starts)),
        tuple(map(_read_finish, step.finishes)),
        _read_logprobs(step) if asked_count else (),
    )


def _read_start(start: pb.SequenceStart) -> Start:
    return Start(start.sequence_id, _seconds(start.wait), _seconds(start.prefill))


def _read_finish(finish: pb.SequenceFinish) -> Finish:
    return Finish(
        finish.sequence_id,
        _END_STATUSES.get(finish.reason, Status.FAILED),
        finish.error,
        finish.score if finish.HasField("score") else None,
    )


def _read_logprobs(step: pb.Step) -> tuple[TokenLogprob | None, ...]:
    """One for each token, None where its sequence has not asked for it."""
    logprobs = map(_read_logprob, step.logprobs)
    return tuple(next(logprobs) if has_logprobs(sequence_id) else None for sequence_id in step.sequence_ids)


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


def duration(seconds: float) -> duration_pb2.Duration:
    """A time in seconds as protobuf has it, to the nanosecond."""
    whole, nanos = divmod(round(seconds * 1e9), 10**9)
    return duration_pb2.Duration(seconds=whole, nanos=nanos)


def _seconds(duration: duration_pb2.Duration) -> float:
    return (duration.seconds * 10**9 + duration.nanos) / 1e9


def _read_decay(message: generation_pb2.GenerationConfig) -> ExponentialDecay | None:
    if not message.HasField("exponential_decay_length_penalty"):
        return None
    decay = message.exponential_decay_length_penalty
    return ExponentialDecay(decay.start_index, decay.factor)
