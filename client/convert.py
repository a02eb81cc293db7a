"""Between the client's values and the messages of `textserve.v1`. No other module looks into the latter."""

import operator
from collections.abc import Sequence
from typing import SupportsIndex

from google.protobuf.duration_pb2 import Duration

from textserve.v1 import generation_pb2, model_pb2

from .events import Delta, Event, Finished, Started
from .status import protocol_error
from .values import Candidate, FinishReason, Generation, GenerationConfig, Message, Model, Prompt, Timing, Usage

FINISH_REASONS = {
    generation_pb2.FINISH_REASON_END_OF_SEQUENCE: FinishReason.END_OF_SEQUENCE,
    generation_pb2.FINISH_REASON_STOP_SEQUENCE: FinishReason.STOP_SEQUENCE,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
    generation_pb2.FINISH_REASON_DEADLINE: FinishReason.DEADLINE,
}


def generate_request(
    prompt: Prompt,
    *,
    model: str = "",
    max_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    echo: bool = False,
    token_ids: bool = False,
    skip_special_tokens: bool = True,
) -> generation_pb2.GenerateRequest:
    """Builds the request; `options.GenerateOptions` says what each parameter means.

    TypeError or ValueError for what the request's fields cannot hold; ranges are checked by the server.
    """
    request = generation_pb2.GenerateRequest(
        model=model,
        generation_config=generation_pb2.GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        ),
        stop_sequences=[stop] if isinstance(stop, str) else stop,
        output_options=generation_pb2.OutputOptions(
            echo=echo, token_ids=token_ids, skip_special_tokens=skip_special_tokens
        ),
    )
    _set_prompt(request, prompt)
    return request


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
        prompt_token_ids=tuple(response.prompt_token_ids),
    )


def event_from(message: generation_pb2.StreamGenerateResponse) -> Event | None:
    """One event of a stream; None for a kind that is newer than this client."""
    match message.WhichOneof("event"):
        case "started":
            return _started(message.started)
        case "delta":
            delta = message.delta
            return Delta(delta.text, tuple(delta.token_ids), delta.candidate_index)
        case "finished":
            return _finished(message.finished)
        case _:
            return None


def models_request() -> model_pb2.ListModelsRequest:
    """Asks for the models."""
    return model_pb2.ListModelsRequest()


def models_from(response: model_pb2.ListModelsResponse) -> list[Model]:
    """The models that are served."""
    return [_model(each) for each in response.models]


def _set_prompt(request: generation_pb2.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
        return
    if isinstance(prompt, (bytes, bytearray, memoryview)):
        raise TypeError("a prompt is text, not bytes: decode it first")
    items: list[Message | int] = list(prompt)
    if not items:
        raise ValueError("the prompt is empty")
    messages = [each for each in items if isinstance(each, Message)]
    if len(messages) == len(items):
        request.chat.messages.extend(
            generation_pb2.ChatMessage(role=each.role, content=each.content) for each in messages
        )
    else:
        request.tokens.ids.extend(_token_id(each) for each in items)


def _token_id(item: object) -> int:
    """A token id of any integer type, NumPy's and PyTorch's scalars included."""
    if isinstance(item, SupportsIndex):
        return operator.index(item)
    raise TypeError(f"a prompt is a str, a sequence of Message or a sequence of int; it contains {type(item).__name__}")


def _started(message: generation_pb2.StreamStarted) -> Started:
    return Started(message.model, message.seed, message.prompt_token_count, tuple(message.prompt_token_ids))


def _finished(message: generation_pb2.StreamFinished) -> Finished:
    return Finished(
        candidate_index=message.candidate_index,
        finish_reason=FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN),
        stop_sequence=message.stop_sequence,
        usage=_usage(message.usage),
        timing=_timing(message.timing),
        fingerprint=message.receipt.fingerprint,
        config=_config(message.receipt.generation_config),
        worker=message.receipt.worker,
    )


def _candidate(message: generation_pb2.Candidate) -> Candidate:
    reason = FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN)
    return Candidate(message.text, reason, message.stop_sequence, tuple(message.token_ids))


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
    # Every field of the message has presence, and its name is that of the value's field (there is a test for both).
    return GenerationConfig(**{field.name: value for field, value in message.ListFields()})


def _model(message: model_pb2.Model) -> Model:
    return Model(
        name=message.name,
        architecture=message.architecture,
        context_length=message.context_length,
        vocab_size=message.vocab_size,
        quantization=message.quantization,
        quantized_share=message.quantized_share,
        fingerprint=message.fingerprint,
        default_generation_config=_config(message.default_generation_config),
        has_chat_template=message.has_chat_template,
        eos_token_ids=tuple(message.eos_token_ids),
        ready_worker_count=message.ready_worker_count,
    )
