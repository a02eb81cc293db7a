"""The edge to the callers, inwards: protobuf requests become values of the domain."""

from textserve.v1 import generation_pb2 as pb

from ..domain.request import (
    ChatPrompt,
    Message,
    OutputOptions,
    Prompt,
    Request,
    ResumedCandidate,
    TextPrompt,
    TokenPrompt,
)
from ..workers.config_messages import read_config


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
            return ChatPrompt(tuple(Message(turn.role, turn.content) for turn in message.chat.messages))
        case "tokens":
            return TokenPrompt(message.tokens.ids)
        case None:
            return None
