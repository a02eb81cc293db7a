"""From the messages that the client gets to its values. No other module but `request` looks into messages."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from textserve.v1 import generation_pb2, model_pb2, tokenization_pb2

from ..errors._status import protocol_error
from ..types.events import Delta, Event, Finished, PromptLogprobs, Receipt, Started
from ..types.generation_config import GenerationConfig
from ..types.values import (
    Candidate,
    Estimate,
    FinishReason,
    Generation,
    Model,
    ModelCapability,
    ModelLimits,
    Timing,
    Tokenization,
    TokenLogprob,
    TokenPiece,
    TopLogprob,
    Usage,
)
from .request import EARLY_STOPPING

FINISH_REASONS = {
    generation_pb2.FINISH_REASON_END_OF_SEQUENCE: FinishReason.END_OF_SEQUENCE,
    generation_pb2.FINISH_REASON_STOP_SEQUENCE: FinishReason.STOP_SEQUENCE,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_DEADLINE: FinishReason.DEADLINE,
    generation_pb2.FINISH_REASON_STOP_TOKEN: FinishReason.STOP_TOKEN,
    generation_pb2.FINISH_REASON_TIME_LIMIT: FinishReason.TIME_LIMIT,
}

CAPABILITIES = {
    model_pb2.MODEL_CAPABILITY_CHAT: ModelCapability.CHAT,
    model_pb2.MODEL_CAPABILITY_TOOLS: ModelCapability.TOOLS,
    model_pb2.MODEL_CAPABILITY_PROMPT_LOGPROBS: ModelCapability.PROMPT_LOGPROBS,
}

_EARLY_STOPPING = {number: value for value, number in EARLY_STOPPING.items()}


def generation_from(response: generation_pb2.GenerateResponse) -> Generation:
    """The whole answer. ServerError if it has no candidate."""
    if not response.candidates:
        raise protocol_error("the answer has no candidate")
    receipt = response.receipt
    return Generation(
        candidates=tuple(_candidate(each) for each in response.candidates),
        usage=_usage(response.usage),
        timing=_timing(response.timing),
        model=receipt.model,
        fingerprint=receipt.fingerprint,
        seed=receipt.seed,
        config=_config(receipt.generation_config),
        worker=receipt.worker,
        attempt_count=receipt.attempt_count,
        resumed=receipt.resumed,
        stop_sequences=tuple(receipt.stop_sequences),
        prompt_token_ids=tuple(response.prompt_token_ids),
        prompt_logprobs=_logprobs(response.prompt_logprobs),
        server_request_id=receipt.server_request_id,
    )


def event_from(message: generation_pb2.StreamGenerateResponse) -> Event | None:
    """One event of a stream; None for a kind that is newer than this client."""
    match message.WhichOneof("event"):
        case "started":
            return _started(message.started)
        case "delta":
            return _delta(message.delta)
        case "finished":
            return _finished(message.finished)
        case "prompt_logprobs":
            return PromptLogprobs(message.prompt_logprobs.position, _logprobs(message.prompt_logprobs.logprobs))
        case _:
            return None


def estimate_from(response: generation_pb2.EstimateGenerateResponse) -> Estimate:
    """What a request would be."""
    times = {
        name: _seconds(getattr(response, name)) if response.HasField(name) else None
        for name in ("queue", "time_to_first_token", "total")
    }
    return Estimate(response.prompt_token_count, response.max_new_tokens, **times)


def tokenization_from(response: tokenization_pb2.TokenizeResponse) -> Tokenization:
    """The tokens of a prompt."""
    return Tokenization(
        token_ids=tuple(response.token_ids),
        pieces=tuple(TokenPiece(each.piece, each.begin, each.end, each.is_special) for each in response.pieces),
        rendered_prompt=response.rendered_prompt,
    )


def models_from(response: model_pb2.ListModelsResponse) -> list[Model]:
    """The models on a page."""
    return [model_from(each) for each in response.models]


def _started(message: generation_pb2.StreamStarted) -> Started:
    return Started(
        model=message.model,
        seed=message.seed,
        prompt_token_count=message.prompt_token_count,
        prompt_token_ids=tuple(message.prompt_token_ids),
        server_request_id=message.server_request_id,
    )


def _delta(message: generation_pb2.StreamDelta) -> Delta:
    return Delta(message.text, tuple(message.token_ids), message.candidate_index, _logprobs(message.logprobs))


def _finished(message: generation_pb2.StreamFinished) -> Finished:
    return Finished(
        candidate_index=message.candidate_index,
        finish_reason=FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN),
        stop_sequence=message.stop_sequence,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
        seed=message.seed,
        usage=_usage(message.usage),
        timing=_timing(message.timing),
        receipt=_receipt(message.receipt) if message.HasField("receipt") else None,
    )


def _receipt(message: generation_pb2.Receipt) -> Receipt:
    return Receipt(
        model=message.model,
        fingerprint=message.fingerprint,
        seed=message.seed,
        config=_config(message.generation_config),
        worker=message.worker,
        attempt_count=message.attempt_count,
        resumed=message.resumed,
        server_request_id=message.server_request_id,
        stop_sequences=tuple(message.stop_sequences),
    )


def _candidate(message: generation_pb2.Candidate) -> Candidate:
    return Candidate(
        text=message.text,
        finish_reason=FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN),
        stop_sequence=message.stop_sequence,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
        token_ids=tuple(message.token_ids),
        seed=message.seed,
        logprobs=_logprobs(message.logprobs),
        score=message.score if message.HasField("score") else None,
    )


def _logprobs(messages: Iterable[generation_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token_id=each.token_id,
            logprob=each.logprob,
            rank=each.rank,
            text_offset=each.text_offset,
            top=tuple(TopLogprob(other.token_id, other.logprob) for other in each.top),
        )
        for each in messages
    )


def _usage(message: generation_pb2.Usage) -> Usage:
    return Usage(message.prompt_token_count, message.output_token_count)


def _timing(message: generation_pb2.Timing) -> Timing:
    return Timing(
        queue=_seconds(message.queue),
        prefill=_seconds(message.prefill),
        decode=_seconds(message.decode),
        time_to_first_token=_seconds(message.time_to_first_token),
    )


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _config(message: generation_pb2.GenerationConfig) -> GenerationConfig:
    # A field that is listed was set, and its name is that of the value's field (there is a test for both).
    return GenerationConfig(**{field.name: _parameter(field.name, value) for field, value in message.ListFields()})


def _parameter(name: str, value: Any) -> Any:  # noqa: ANN401 - what it is depends on the name
    match name:
        case "bad_words_ids":
            return tuple(tuple(each.ids) for each in value)
        case "logit_bias":
            return tuple(sorted(value.items()))
        case "exponential_decay_length_penalty":
            return value.start_index, value.factor
        case "max_time":
            return _seconds(value)
        case "early_stopping":
            return _EARLY_STOPPING.get(value)
        case _:
            return value if isinstance(value, (bool, int, float)) else tuple(value)


def model_from(message: model_pb2.Model) -> Model:
    """A model."""
    return Model(
        name=message.name,
        architecture=message.architecture,
        context_length=message.context_length,
        vocab_size=message.vocab_size,
        quantization=message.quantization,
        quantized_share=message.quantized_share,
        fingerprint=message.fingerprint,
        default_generation_config=_config(message.default_generation_config),
        capabilities=frozenset(CAPABILITIES.get(each, ModelCapability.UNKNOWN) for each in message.capabilities),
        limits=ModelLimits(
            max_sequence_count=message.limits.max_sequence_count,
            max_beam_token_count=message.limits.max_beam_token_count,
            max_prompt_logprobs_token_count=message.limits.max_prompt_logprobs_token_count,
        ),
        eos_token_ids=tuple(message.eos_token_ids),
        ready_worker_count=message.ready_worker_count,
        default_stop_sequences=tuple(message.default_stop_sequences),
    )
