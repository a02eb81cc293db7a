"""The edge to the callers: protobuf requests become values of the domain, the domain becomes protobuf answers."""

from collections.abc import Iterator
from dataclasses import asdict, fields

from google.protobuf import duration_pb2

from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2

from .effective import EffectiveConfig
from .generation import Generation
from .models import ServedModel
from .request import (
    ChatPrompt,
    GenerationConfig,
    Message,
    OutputOptions,
    Prompt,
    Request,
    TextPrompt,
    TokenPrompt,
)
from .sequence import Delta, Sequence, Status
from .timing import Timing

# A failed candidate ends its call with an error status: it has no finish reason.
_FINISH_REASONS = {
    Status.END_OF_SEQUENCE: pb.FINISH_REASON_END_OF_SEQUENCE,
    Status.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    Status.LENGTH: pb.FINISH_REASON_LENGTH,
    Status.CANCELLED: pb.FINISH_REASON_CANCELLED,
    Status.DEADLINE: pb.FINISH_REASON_DEADLINE,
}
_CONFIG_FIELDS = tuple(field.name for field in fields(GenerationConfig))


def read_request(message: pb.GenerateRequest) -> Request:
    """The request, decoded but not checked."""
    options = message.output_options
    return Request(
        prompt=_read_prompt(message),
        model=message.model,
        config=read_config(message.generation_config),
        stop_sequences=tuple(message.stop_sequences),
        output=OutputOptions(
            echo=options.echo,
            token_ids=options.token_ids,
            skip_special_tokens=options.skip_special_tokens if options.HasField("skip_special_tokens") else True,
        ),
    )


def read_config(message: pb.GenerationConfig) -> GenerationConfig:
    """The parameters that are set."""
    return GenerationConfig(
        **{name: getattr(message, name) for name in _CONFIG_FIELDS if message.HasField(name)}  # type: ignore[arg-type]
    )


def write_config(config: GenerationConfig | EffectiveConfig) -> pb.GenerationConfig:
    """The parameters that are not None."""
    return pb.GenerationConfig(**{name: value for name, value in asdict(config).items() if value is not None})


def started(generation: Generation) -> pb.StreamGenerateResponse:
    """The first message of a stream."""
    return pb.StreamGenerateResponse(
        started=pb.StreamStarted(
            model=generation.facts.name,
            seed=generation.config.seed,
            prompt_token_count=len(generation.prompt_ids),
            prompt_token_ids=_reported_prompt_ids(generation),
        )
    )


def echoes(generation: Generation) -> Iterator[pb.StreamGenerateResponse]:
    """The prompt as the first delta of each candidate, if it was asked for."""
    if generation.prompt_text:
        for sequence in generation.sequences:
            yield _delta(sequence, Delta(generation.prompt_text, ()))


def news(generation: Generation, now: float) -> list[pb.StreamGenerateResponse]:
    """What has come since the last call: at most one delta for each candidate, and then their ends."""
    deltas = [_delta(sequence, delta) for sequence in generation.sequences if (delta := sequence.take()) is not None]
    if not generation.finished or generation.error is not None:
        return deltas
    ends = [
        pb.StreamGenerateResponse(finished=_finished(generation, sequence, now)) for sequence in generation.sequences
    ]
    return deltas + ends


def response(generation: Generation, now: float) -> pb.GenerateResponse:
    """The whole answer."""
    return pb.GenerateResponse(
        candidates=[_candidate(generation, sequence) for sequence in generation.sequences],
        usage=_usage(generation),
        timing=_timing(generation.sequences[0].timeline.timing(now)),
        receipt=_receipt(generation),
        prompt_token_ids=_reported_prompt_ids(generation),
    )


def write_model(model: ServedModel, ready_worker_count: int) -> model_pb2.Model:
    """The description of a served model."""
    facts = model.facts
    return model_pb2.Model(
        name=facts.name,
        architecture=facts.architecture,
        context_length=facts.context_length,
        vocab_size=facts.vocab_size,
        quantization=facts.quantization,
        quantized_share=facts.quantized_share,
        fingerprint=facts.fingerprint,
        default_generation_config=write_config(facts.generation_defaults),
        has_chat_template=model.tokenizer.has_chat_template,
        eos_token_ids=facts.eos_token_ids,
        ready_worker_count=ready_worker_count,
    )


def _read_prompt(message: pb.GenerateRequest) -> Prompt | None:
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "chat":
            return ChatPrompt(tuple(Message(turn.role, turn.content) for turn in message.chat.messages))
        case "tokens":
            return TokenPrompt(message.tokens.ids)
        case None:
            return None


def _reported_prompt_ids(generation: Generation) -> list[int]:
    return generation.prompt_ids if generation.output.echo and generation.output.token_ids else []


def _delta(sequence: Sequence, delta: Delta) -> pb.StreamGenerateResponse:
    return pb.StreamGenerateResponse(
        delta=pb.StreamDelta(candidate_index=sequence.candidate_index, text=delta.text, token_ids=delta.token_ids)
    )


def _finished(generation: Generation, sequence: Sequence, now: float) -> pb.StreamFinished:
    return pb.StreamFinished(
        candidate_index=sequence.candidate_index,
        finish_reason=_FINISH_REASONS[sequence.status],
        stop_sequence=sequence.stop_sequence,
        usage=_usage(generation),
        timing=_timing(sequence.timeline.timing(now)),
        receipt=_receipt(generation),
    )


def _candidate(generation: Generation, sequence: Sequence) -> pb.Candidate:
    delta = sequence.take() or Delta("", ())
    return pb.Candidate(
        candidate_index=sequence.candidate_index,
        text=generation.prompt_text + delta.text,
        finish_reason=_FINISH_REASONS[sequence.status],
        stop_sequence=sequence.stop_sequence,
        token_ids=delta.token_ids,
    )


def _usage(generation: Generation) -> pb.Usage:
    return pb.Usage(prompt_token_count=len(generation.prompt_ids), output_token_count=generation.output_token_count)


def _timing(timing: Timing) -> pb.Timing:
    return pb.Timing(
        queue=_duration(timing.queue_s),
        prefill=_duration(timing.prefill_s),
        decode=_duration(timing.decode_s),
        time_to_first_token=_duration(timing.time_to_first_token_s),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _receipt(generation: Generation) -> pb.Receipt:
    return pb.Receipt(
        model=generation.facts.name,
        fingerprint=generation.facts.fingerprint,
        seed=generation.config.seed,
        generation_config=write_config(generation.config),
        worker=generation.worker,
    )
