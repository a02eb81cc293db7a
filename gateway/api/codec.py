"""The edge to the callers: protobuf requests become values of the domain, and the domain becomes protobuf answers.

How long the lists of a request may be is one table, used twice: on the wire before a large message is parsed (`wire`),
and on the message. Values made of the millions of empty messages that fit into a few megabytes would keep every other
call waiting for half a minute. What is in the lists is checked later, by `validation`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage

from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2, tokenization_pb2

from ..domain.errors import Violation, out_of_range
from ..domain.generation import Generation
from ..domain.generation_config import (
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIASES,
    MAX_STOP_TOKEN_IDS,
    MAX_TOKEN_IDS,
)
from ..domain.request import (
    ChatPrompt,
    Function,
    Message,
    OutputOptions,
    Prompt,
    Request,
    ResumedCandidate,
    TextPrompt,
    TokenPrompt,
    ToolCall,
)
from ..domain.sequence import Delta, ReportedToken, Sequence, Status, Timing
from ..domain.served_model import ServedModel
from ..request.prompt_validation import (
    MAX_CHAT_MESSAGES,
    MAX_CONTENT_PARTS,
    MAX_PROMPT_IDS,
    MAX_TEMPLATE_ARGUMENT_BYTES,
    MAX_TOOL_CALLS,
    MAX_TOOLS,
)
from ..request.validation import MAX_IGNORED_DEFAULTS, MAX_RESUMED_CANDIDATES, MAX_STOP_SEQUENCES
from ..scheduling.admission_control import Estimate
from ..workers.protocol import duration, read_config, write_config


def read_request(message: pb.GenerateRequest, *, is_stream: bool) -> Request:
    """The request, decoded but not checked."""
    return Request(
        prompt=_read_prompt(message),
        model=message.model,
        config=read_config(message.generation_config),
        stop_sequences=tuple(message.stop_sequences),
        output=_read_options(message.output_options),
        truncate_prompt=message.truncate_prompt if message.HasField("truncate_prompt") else None,
        is_stream=is_stream,
        partial_on_deadline=message.partial_on_deadline,
        resumed=tuple(
            ResumedCandidate(candidate.candidate_index, candidate.token_ids)
            for candidate in message.resume_from.candidates
        ),
        request_id=message.request_id,
        ignored_defaults=tuple(message.ignored_defaults.paths),
    )


def _read_options(options: pb.OutputOptions) -> OutputOptions:
    return OutputOptions(
        echo=options.echo,
        token_ids=options.token_ids,
        skip_special_tokens=options.skip_special_tokens if options.HasField("skip_special_tokens") else True,
        include_stop_sequence=options.include_stop_sequence,
        logprobs=options.logprobs,
        top_logprobs=options.top_logprobs,
        prompt_logprobs=options.prompt_logprobs,
    )


def _read_prompt(message: pb.GenerateRequest) -> Prompt | None:
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "chat":
            return read_chat(message.chat)
        case "tokens":
            return TokenPrompt(message.tokens.ids)
        case None:
            return None


def read_chat(chat: pb.ChatPrompt) -> ChatPrompt:
    """The conversation, decoded but not checked."""
    return ChatPrompt(
        messages=tuple(map(_read_message, chat.messages)),
        tools=tuple(
            Function(tool.function.name, tool.function.description, tool.function.parameters_json)
            for tool in chat.tools
        ),
        tool_choice=chat.tool_choice,
        template_arguments={name: _read_value(value) for name, value in sorted(chat.template_arguments.fields.items())},
        continues_last=chat.continue_last_message,
    )


def _read_message(turn: pb.ChatMessage) -> Message:
    return Message(
        role=turn.role,
        content=_read_content(turn),
        name=turn.name,
        tool_calls=tuple(
            ToolCall(call.id, call.function.name, call.function.arguments_json) for call in turn.tool_calls
        ),
        tool_call_id=turn.tool_call_id,
        reasoning=turn.reasoning,
    )


def _read_content(turn: pb.ChatMessage) -> str | tuple[str | None, ...] | None:
    match turn.WhichOneof("content"):
        case "text":
            return turn.text
        case "parts":
            return tuple(part.text if part.HasField("text") else None for part in turn.parts.parts)
        case None:
            return None


def _read_value(value: struct_pb2.Value) -> Any:  # noqa: ANN401 - any value of JSON
    match value.WhichOneof("kind"):
        case "struct_value":
            return {name: _read_value(each) for name, each in sorted(value.struct_value.fields.items())}
        case "list_value":
            return [_read_value(each) for each in value.list_value.values]
        case "number_value":
            number = value.number_value
            # A Struct has doubles alone: 3 comes as 3.0, which templates would write so.
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


# A failed candidate ends its call with an error status: it has no finish reason.
_FINISH_REASONS = {
    Status.END_OF_SEQUENCE: pb.FINISH_REASON_END_OF_SEQUENCE,
    Status.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    Status.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
    Status.LENGTH: pb.FINISH_REASON_LENGTH,
    Status.TIME_LIMIT: pb.FINISH_REASON_TIME_LIMIT,
    Status.DEADLINE: pb.FINISH_REASON_DEADLINE,
    # Its caller has left, and reads nothing.
    Status.CANCELLED: pb.FINISH_REASON_UNSPECIFIED,
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
                yield _delta(sequence.candidate_index, generation.prompt_text)


def news(generation: Generation, now: float) -> Iterator[pb.StreamGenerateResponse]:
    """What has come since the last call.

    First log-probabilities of the prompt, then what is new of each candidate, merged, and its end. It is taken at once,
    and each message is made when it is asked for: many of them may be large.
    """
    taken: list[tuple[Sequence, Delta | None, bool]] = []
    is_over = generation.finished
    for sequence in generation.sequences:
        delta, has_ended = sequence.take(), sequence.status >= Status.END_OF_SEQUENCE and sequence.take_end()
        if delta is not None or has_ended:
            taken.append((sequence, delta, has_ended))
    if generation.output.prompt_logprobs:
        yield from _prompt_parts(generation)
    for sequence, delta, has_ended in taken:
        if delta is not None and delta.logprobs:
            yield from _deltas_with_logprobs(sequence.candidate_index, delta)
        elif delta is not None:
            yield _delta(sequence.candidate_index, delta.text, delta.token_ids)
        if has_ended:
            finished = _finished(generation, sequence, now, is_last=is_over and sequence is taken[-1][0])
            yield pb.StreamGenerateResponse(finished=finished)


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


def estimate(generation: Generation, times: Estimate) -> pb.EstimateGenerateResponse:
    """What a generation would be."""
    return pb.EstimateGenerateResponse(
        prompt_token_count=len(generation.prompt_ids),
        max_new_tokens=generation.config.max_new_tokens,
        queue=_known(times.queue_s),
        time_to_first_token=_known(times.first_token_s),
        total=_known(times.total_s),
    )


def _known(seconds: float | None) -> Duration | None:
    return None if seconds is None else duration(seconds)


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
        capabilities=_capabilities(model),
        eos_token_ids=facts.eos_token_ids,
        ready_worker_count=ready_worker_count,
        default_stop_sequences=facts.stop_sequences,
        limits=model_pb2.ModelLimits(
            max_sequence_count=facts.max_rows,
            max_beam_token_count=facts.pool_tokens,
            max_prompt_logprobs_token_count=facts.prompt_logprobs_limit,
        ),
    )


def _capabilities(model: ServedModel) -> Iterator[model_pb2.ModelCapability.ValueType]:
    if model.tokenizer.has_chat_template:
        yield model_pb2.MODEL_CAPABILITY_CHAT
    if model.tokenizer.takes_tools:
        yield model_pb2.MODEL_CAPABILITY_TOOLS
    if model.facts.prompt_logprobs_limit:
        yield model_pb2.MODEL_CAPABILITY_PROMPT_LOGPROBS


def _reported_prompt_ids(generation: Generation) -> list[int]:
    return generation.prompt_ids if generation.output.echo and generation.output.token_ids else []


def _prompt_parts(generation: Generation) -> Iterator[pb.StreamGenerateResponse]:
    while (part := generation.take_prompt_logprobs(_part_size(generation.output.top_logprobs))) is not None:
        message = pb.StreamPromptLogprobs(position=part.position, logprobs=_logprobs(part.tokens))
        yield pb.StreamGenerateResponse(prompt_logprobs=message)


def _deltas_with_logprobs(index: int, delta: Delta) -> Iterator[pb.StreamGenerateResponse]:
    """The delta, behind as many others as the first of its log-probabilities need."""
    tokens = delta.logprobs
    size = _part_size(len(tokens[0].logprob.top))
    *first, last = (tokens[start : start + size] for start in range(0, len(tokens), size))
    for part in first:
        yield _delta(index, logprobs=_logprobs(part))
    yield _delta(index, delta.text, delta.token_ids, _logprobs(last))


def _part_size(top_logprobs: int) -> int:
    return PART_NUMBERS // (1 + top_logprobs)


def _delta(
    index: int, text: str = "", token_ids: Iterable[int] = (), logprobs: Iterable[pb.TokenLogprob] = ()
) -> pb.StreamGenerateResponse:
    delta = pb.StreamDelta(candidate_index=index, text=text, token_ids=token_ids, logprobs=logprobs)
    return pb.StreamGenerateResponse(delta=delta)


def _finished(generation: Generation, sequence: Sequence, now: float, *, is_last: bool) -> pb.StreamFinished:
    return pb.StreamFinished(
        candidate_index=sequence.candidate_index,
        finish_reason=_FINISH_REASONS[sequence.status],
        usage=_usage(generation),
        timing=_timing(sequence.timeline.timing(now)),
        receipt=_receipt(generation) if is_last else None,
        seed=sequence.seed,
        **_ended_by(sequence),
    )


def _ended_by(sequence: Sequence) -> dict[str, Any]:
    """The field that says what ended a candidate; none if nothing of the output did."""
    if sequence.status is Status.STOP_SEQUENCE:
        return {"stop_sequence": sequence.stop_sequence}
    if sequence.status in {Status.STOP_TOKEN, Status.END_OF_SEQUENCE}:
        return {"stop_token_id": sequence.output_token_ids[-1]}
    return {}


def _candidate(generation: Generation, index: int, sequence: Sequence) -> pb.Candidate:
    delta = sequence.take() or Delta("")
    return pb.Candidate(
        candidate_index=index,
        text=("" if sequence.holds_echo else generation.prompt_text) + delta.text,
        finish_reason=_FINISH_REASONS[sequence.status],
        token_ids=delta.token_ids,
        logprobs=_logprobs(delta.logprobs),
        seed=sequence.seed,
        score=sequence.mean_logprob if generation.config.is_ranked else sequence.score,
        **_ended_by(sequence),
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
        queue=duration(timing.queue_s),
        prefill=duration(timing.prefill_s),
        decode=duration(timing.decode_s),
        time_to_first_token=duration(timing.time_to_first_token_s),
    )


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


@dataclass(frozen=True, slots=True)
class ListLimit:
    """What is known of a list before it is looked into."""

    most: int
    """Entries that it may have."""

    chars: int = 1
    """The work that an entry brings, in characters of a prompt that take as long; without what is in it."""

    unit: str = "entries"
    """What is counted. Of a message that is no list: its bytes."""


_CHAT_LISTS: dict[str, ListLimit] = {
    "chat.messages": ListLimit(MAX_CHAT_MESSAGES, chars=16),
    "chat.messages.parts.parts": ListLimit(MAX_CONTENT_PARTS, chars=4),
    "chat.messages.tool_calls": ListLimit(MAX_TOOL_CALLS, chars=16),
    "chat.tools": ListLimit(MAX_TOOLS, chars=16),
    "chat.template_arguments": ListLimit(MAX_TEMPLATE_ARGUMENT_BYTES, unit="bytes"),
}

LISTS: dict[str, ListLimit] = {
    **_CHAT_LISTS,
    "tokens.ids": ListLimit(MAX_PROMPT_IDS),
    "stop_sequences": ListLimit(MAX_STOP_SEQUENCES),
    "generation_config.bad_words_ids": ListLimit(MAX_BAD_WORDS, chars=4),
    "generation_config.bad_words_ids.ids": ListLimit(MAX_BAD_WORD_TOKENS),
    "generation_config.logit_bias": ListLimit(MAX_LOGIT_BIASES, chars=4),
    "generation_config.allowed_token_ids": ListLimit(MAX_TOKEN_IDS),
    "generation_config.stop_token_ids": ListLimit(MAX_STOP_TOKEN_IDS),
    "generation_config.suppress_tokens": ListLimit(MAX_TOKEN_IDS),
    "generation_config.begin_suppress_tokens": ListLimit(MAX_TOKEN_IDS),
    "ignored_defaults.paths": ListLimit(MAX_IGNORED_DEFAULTS),
    "resume_from.candidates": ListLimit(MAX_RESUMED_CANDIDATES, chars=16),
    # Each is decoded and searched for stop sequences, as if it had just been generated.
    "resume_from.candidates.token_ids": ListLimit(MAX_PROMPT_IDS, chars=16),
}
"""Every repeated field of GenerateRequest, by its path, and what is bounded as a whole instead of list by list."""

LISTS_OF: dict[str, Mapping[str, ListLimit]] = {
    pb.GenerateRequest.DESCRIPTOR.full_name: LISTS,
    pb.EstimateGenerateRequest.DESCRIPTOR.full_name: {f"request.{path}": limit for path, limit in LISTS.items()},
    tokenization_pb2.TokenizeRequest.DESCRIPTOR.full_name: _CHAT_LISTS,
    tokenization_pb2.DetokenizeRequest.DESCRIPTOR.full_name: {"token_ids": ListLimit(MAX_PROMPT_IDS)},
}
"""The same by kind of request, for all that have any."""

_OWNERS_OF = {
    name: {owner for path in lists for owner in accumulate(path.split(".")[:-1], "{}.{}".format)}
    for name, lists in LISTS_OF.items()
}
"""What has lists in it, at any depth."""

ECHO_CHARS = 16
"""The work that a token of an echoed prompt brings: it is decoded like an output."""


def list_violations(message: ProtobufMessage) -> Iterator[Violation]:
    """The lists with more than they may have."""
    for field, limit, size in _lists(message):
        if size > limit.most:
            yield too_many(field, limit)


def too_many(field: str, limit: ListLimit) -> Violation:
    """A list with more entries than it may have. How many more is not counted, so that nobody has to wait for it."""
    return out_of_range(field, f"must have at most {limit.most} {limit.unit}, has more")


def work_chars(message: pb.GenerateRequest) -> int:
    """How much work a request within its limits is, in characters of a prompt that take as long to tokenize."""
    prompt = len(message.text) + message.chat.ByteSize()
    work = prompt + sum(map(len, message.stop_sequences))
    work += sum([limit.chars * size for _, limit, size in _lists(message)])
    if message.output_options.echo:
        work += ECHO_CHARS * (prompt + len(message.tokens.ids))
    return work


def _lists(message: ProtobufMessage) -> list[tuple[str, ListLimit, int]]:
    """What is there of its lists: path, limit and size; of lists within a list, no more than there may be."""
    name = message.DESCRIPTOR.full_name
    lists, list_owners = LISTS_OF[name], _OWNERS_OF[name]
    found: list[tuple[str, ListLimit, int]] = []
    owners: list[tuple[str, str, Any]] = [("", "", message)]
    for path, field, owner in owners:  # it grows by those within it
        for descriptor, value in owner.ListFields():
            its_path, its_field = path + descriptor.name, field + descriptor.name
            limit = lists.get(its_path)
            if limit is not None:
                found.append((its_field, limit, len(value) if descriptor.is_repeated else value.ByteSize()))
            if its_path not in list_owners:
                continue
            if limit is None:
                owners.append((f"{its_path}.", f"{its_field}.", value))
            else:
                inner = enumerate(value[: limit.most])
                owners.extend((f"{its_path}.", f"{its_field}[{index}].", entry) for index, entry in inner)
    return found
