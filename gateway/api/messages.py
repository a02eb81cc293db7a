"""The edge to the callers, outwards: the domain becomes protobuf answers."""

from collections.abc import Iterable, Iterator

from google.protobuf import duration_pb2

from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2

from ..domain.generation import Generation
from ..domain.logprobs import ReportedToken
from ..domain.sequence import Delta, Sequence, Status
from ..domain.served_model import ServedModel
from ..domain.timing import Timing
from ..workers.config_messages import write_config

# A failed candidate ends its call with an error status: it has no finish reason.
_FINISH_REASONS = {
    Status.END_OF_SEQUENCE: pb.FINISH_REASON_END_OF_SEQUENCE,
    Status.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    Status.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
    Status.LENGTH: pb.FINISH_REASON_LENGTH,
    Status.TIME_LIMIT: pb.FINISH_REASON_TIME_LIMIT,
    Status.CANCELLED: pb.FINISH_REASON_CANCELLED,
    Status.DEADLINE: pb.FINISH_REASON_DEADLINE,
}
# What is made in one go of log-probabilities, those of alternatives included: a few milliseconds, below 64 KiB.
PART_NUMBERS = 4096


def started(generation: Generation) -> pb.StreamGenerateResponse:
    """The first message of a stream."""
    return pb.StreamGenerateResponse(
        started=pb.StreamStarted(
            model=generation.facts.name,
            seed=generation.config.seed,
            prompt_token_count=len(generation.prompt_ids),
            prompt_token_ids=_reported_prompt_ids(generation),
            server_request_id=generation.server_request_id,
        )
    )


def echoes(generation: Generation) -> Iterator[pb.StreamGenerateResponse]:
    """The prompt as the first delta of each candidate, if it was asked for and the caller does not hold it."""
    if generation.prompt_text:
        for sequence in generation.sequences:
            if not sequence.holds_echo:
                yield from _deltas(sequence, Delta(generation.prompt_text))


def news(generation: Generation, now: float) -> Iterator[pb.StreamGenerateResponse]:
    """What has come since the last call.

    First log-probabilities of the prompt, then what is new of each candidate, merged, and its end. It is taken at once,
    and each message is made when it is asked for: many of them may be large.
    """
    taken = [(sequence, sequence.take(), sequence.take_end()) for sequence in generation.sequences]
    yield from _prompt_parts(generation)
    for sequence, delta, has_ended in taken:
        if delta is not None:
            yield from _deltas(sequence, delta)
        if has_ended:
            yield pb.StreamGenerateResponse(finished=_finished(generation, sequence, now))


def response(generation: Generation, now: float) -> pb.GenerateResponse:
    """The whole answer."""
    prompt = generation.take_prompt_logprobs()
    return pb.GenerateResponse(
        candidates=[_candidate(generation, index, each) for index, each in enumerate(generation.candidates)],
        usage=_usage(generation),
        timing=_timing(generation.timing(now)),
        receipt=_receipt(generation),
        prompt_token_ids=_reported_prompt_ids(generation),
        prompt_logprobs=_logprobs(prompt.tokens) if prompt else [],
    )


def response_bytes(generation: Generation, now: float) -> bytes:
    """The same, serialized."""
    return response(generation, now).SerializeToString()


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
        default_stop_sequences=facts.stop_sequences,
    )


def _reported_prompt_ids(generation: Generation) -> list[int]:
    return generation.prompt_ids if generation.output.echo and generation.output.token_ids else []


def _prompt_parts(generation: Generation) -> Iterator[pb.StreamGenerateResponse]:
    while (part := generation.take_prompt_logprobs(_part_size(generation.output.top_logprobs))) is not None:
        message = pb.StreamPromptLogprobs(position=part.position, logprobs=_logprobs(part.tokens))
        yield pb.StreamGenerateResponse(prompt_logprobs=message)


def _deltas(sequence: Sequence, delta: Delta) -> Iterator[pb.StreamGenerateResponse]:
    """The delta, behind as many others as the first of its log-probabilities need."""
    index = sequence.candidate_index
    *first, last = _parts(delta.logprobs) or [()]
    for tokens in first:
        yield pb.StreamGenerateResponse(delta=pb.StreamDelta(candidate_index=index, logprobs=_logprobs(tokens)))
    yield pb.StreamGenerateResponse(
        delta=pb.StreamDelta(
            candidate_index=index, text=delta.text, token_ids=delta.token_ids, logprobs=_logprobs(last)
        )
    )


def _parts(tokens: tuple[ReportedToken, ...]) -> list[tuple[ReportedToken, ...]]:
    size = _part_size(len(tokens[0].logprob.top)) if tokens else 1
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def _part_size(top_logprobs: int) -> int:
    return PART_NUMBERS // (1 + top_logprobs)


def _finished(generation: Generation, sequence: Sequence, now: float) -> pb.StreamFinished:
    return pb.StreamFinished(
        candidate_index=sequence.candidate_index,
        finish_reason=_FINISH_REASONS[sequence.status],
        stop_sequence=sequence.stop_sequence,
        usage=_usage(generation),
        timing=_timing(sequence.timeline.timing(now)),
        receipt=_receipt(generation),
        seed=sequence.seed,
    )


def _candidate(generation: Generation, index: int, sequence: Sequence) -> pb.Candidate:
    delta = sequence.take() or Delta("")
    return pb.Candidate(
        candidate_index=index,
        text=("" if sequence.holds_echo else generation.prompt_text) + delta.text,
        finish_reason=_FINISH_REASONS[sequence.status],
        stop_sequence=sequence.stop_sequence,
        token_ids=delta.token_ids,
        logprobs=_logprobs(delta.logprobs),
        seed=sequence.seed,
        score=sequence.mean_logprob if generation.config.is_ranked else sequence.score,
    )


def _logprobs(tokens: Iterable[ReportedToken]) -> Iterator[pb.TokenLogprob]:
    for token in tokens:
        yield pb.TokenLogprob(
            token_id=token.token_id,
            logprob=token.logprob.logprob,
            rank=token.logprob.rank,
            text_offset=token.text_offset,
            top=[pb.TopLogprob(token_id=token_id, logprob=logprob) for token_id, logprob in token.logprob.top],
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
        worker=generation.last_worker,
        attempt_count=generation.attempts,
        resumed=any(sequence.resumed for sequence in generation.sequences),
        server_request_id=generation.server_request_id,
        stop_sequences=generation.stop_sequences,
    )
