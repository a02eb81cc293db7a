"""Checks a request against the model that is to serve it. Pure: it returns what is wrong, and all of it at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..domain.errors import Violation, out_of_range, quoted
from ..domain.generation_config import GenerationConfig, config_violations, id_list_violations
from ..domain.request import (
    TOOL_CHOICE_NONE,
    ChatPrompt,
    Message,
    ModelFacts,
    Request,
    TemplateFacts,
    TextPrompt,
    TokenPrompt,
    json_object,
)
from .defaults import IGNORABLE, applied_defaults, samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as Many

    from ..domain.generation_config import EffectiveConfig
    from ..domain.request import ResumedCandidate

MAX_STOP_SEQUENCES = 16
MAX_STOP_SEQUENCE_BYTES = 256
MAX_CHAT_MESSAGES = 1024
MAX_CONTENT_PARTS = 1024
MAX_TOOLS = 128
MAX_TOOL_CALLS = 128
MAX_TEMPLATE_ARGUMENT_BYTES = 16_384
"""As protobuf encodes them."""
MAX_JSON_BYTES = 65_536
"""Of one text: it is parsed in one go, and all other threads wait meanwhile."""
MAX_IGNORED_DEFAULTS = 64

MAX_PROMPT_IDS = 1 << 20
"""Ids of a prompt, or of an output that is gone on behind, whatever is cut off and however long the context is."""

MAX_TOP_LOGPROBS = 20

# More text than this for each token of the context is not worth tokenizing: real text has 2 to 6 bytes a token. It is
# refused even where all but its end would be cut off.
MAX_BYTES_PER_TOKEN = 64


def request_violations(request: Request, facts: ModelFacts, template: TemplateFacts) -> list[Violation]:
    """Everything that can be found wrong before the prompt is tokenized."""
    return [
        *prompt_violations(request, facts, template),
        *(_in_config(violation) for violation in config_violations(request.config, facts.vocab_size)),
        *_context_violations(request.config, facts),
        *_stop_violations(request.stop_sequences),
        *_option_violations(request),
        *_ignored_violations(request.ignored_defaults),
        *contradictions(request, facts),
        *resumption_violations(request.resumed, request.config, facts),
    ]


def prompt_violations(request: Request, facts: ModelFacts, template: TemplateFacts) -> Iterator[Violation]:
    """What is wrong with the prompt before its tokens are known."""
    match request.prompt:
        case None:
            yield Violation("prompt", "REQUIRED", "one of text, chat and tokens must be set")
        case TextPrompt(text):
            yield from _text_violations(text, facts)
        case ChatPrompt():
            yield from _chat_violations(request.prompt, facts, template)
        case TokenPrompt():
            yield from _token_violations(request.prompt, request.truncate_prompt, facts)


def length_violations(
    prompt_token_count: int, prompt_field: str, request: Request, facts: ModelFacts
) -> Iterator[Violation]:
    """What is wrong with the length in tokens of the prompt that is kept, alone and with what the request asks for."""
    limit = facts.context_length
    if prompt_token_count < 1:
        yield Violation(prompt_field, "REQUIRED", "the prompt gives no token")
    elif prompt_token_count >= limit:
        yield Violation(prompt_field, "PROMPT_TOO_LONG", _too_long(prompt_token_count, limit))
    else:
        yield from _output_violations(prompt_token_count, request.config, limit)
        yield from _pool_violations(prompt_token_count, request.config, facts)
    if request.output.prompt_logprobs and prompt_token_count > facts.prompt_logprobs_limit:
        yield Violation(
            "output_options.prompt_logprobs",
            "PROMPT_TOO_LONG",
            f"the prompt has {prompt_token_count} tokens; log-probabilities are known of prompts of at most"
            f" {facts.prompt_logprobs_limit} tokens",
        )


def output_room(prompt_token_count: int, config: GenerationConfig, facts: ModelFacts) -> int:
    """Tokens that may follow a prompt: what the context leaves, and what a worker holds of all beams at once."""
    beams = config.num_beams or 1
    limit = facts.context_length if beams == 1 else min(facts.context_length, facts.pool_tokens // beams)
    return limit - prompt_token_count


def _pool_violations(prompt_token_count: int, config: GenerationConfig, facts: ModelFacts) -> Iterator[Violation]:
    beams, asked = config.num_beams or 1, max(config.max_new_tokens or 1, config.min_new_tokens or 1)
    if beams > 1 and prompt_token_count + asked > facts.pool_tokens // beams:
        yield Violation(
            "generation_config.num_beams",
            "POOL_EXCEEDED",
            f"{beams} beams of {prompt_token_count + asked} tokens exceed the {facts.pool_tokens} tokens that a worker"
            " holds at once",
        )


def _output_violations(prompt_token_count: int, config: GenerationConfig, limit: int) -> Iterator[Violation]:
    for name in ("max_new_tokens", "min_new_tokens"):
        asked: int | None = getattr(config, name)
        if asked is not None and prompt_token_count + asked > limit:
            yield Violation(
                f"generation_config.{name}",
                "CONTEXT_EXCEEDED",
                f"the prompt's {prompt_token_count} tokens and {name} {asked} exceed the context of {limit} tokens; at"
                f" most {limit - prompt_token_count} can be generated",
            )


def _in_config(violation: Violation) -> Violation:
    return Violation(f"generation_config.{violation.field}", violation.reason, violation.description)


def _context_violations(config: GenerationConfig, facts: ModelFacts) -> Iterator[Violation]:
    for name in ("max_new_tokens", "min_new_tokens"):
        asked: int | None = getattr(config, name)
        if asked is not None and asked >= facts.context_length:
            yield Violation(
                f"generation_config.{name}",
                "CONTEXT_EXCEEDED",
                f"{name} {asked} leaves no room for a prompt in the context of {facts.context_length} tokens",
            )


def _text_violations(text: str, facts: ModelFacts) -> Iterator[Violation]:
    if not text:
        yield Violation("text", "REQUIRED", "must not be empty")
    yield from _size_violations("text", len(text.encode()), facts)


def _chat_violations(prompt: ChatPrompt, facts: ModelFacts, template: TemplateFacts) -> Iterator[Violation]:
    if not template.is_there:
        yield Violation("chat", "NO_CHAT_TEMPLATE", "the model has no chat template")
    if not 1 <= len(prompt.messages) <= MAX_CHAT_MESSAGES:
        count = len(prompt.messages)
        yield out_of_range("chat.messages", f"must be 1 to {MAX_CHAT_MESSAGES} messages, are {count}")
    too_large = list(_size_violations("chat", _chat_bytes(prompt), facts))
    yield from too_large
    if too_large:
        return  # what is in it is not worth looking at
    for index, message in enumerate(prompt.messages[:MAX_CHAT_MESSAGES]):
        yield from _message_violations(f"chat.messages[{index}]", message)
    yield from _tool_violations(prompt, template)
    if prompt.tool_choice not in range(TOOL_CHOICE_NONE + 1):
        yield out_of_range("chat.tool_choice", f"must be a value that the proto names, is {prompt.tool_choice}")
    yield from _argument_violations(prompt)
    if prompt.continues_last and prompt.messages:
        yield from _continuation_violations(prompt.messages[-1], f"chat.messages[{len(prompt.messages) - 1}]")


def _chat_bytes(prompt: ChatPrompt) -> int:
    """Bytes of all the texts of a conversation."""
    texts = [json.dumps(dict(prompt.template_arguments))]
    for tool in prompt.tools:
        texts += tool.name, tool.description, tool.parameters_json
    for message in prompt.messages:
        texts += message.role, message.name, message.tool_call_id, message.reasoning
        texts += (message.content or "",) if isinstance(message.content, str | None) else map(str, message.content)
        for call in message.tool_calls:
            texts += call.call_id, call.name, call.arguments_json
    return sum(len(text.encode()) for text in texts)


def _message_violations(field: str, message: Message) -> Iterator[Violation]:
    if not message.role:
        yield Violation(f"{field}.role", "REQUIRED", "must not be empty")
    if isinstance(message.content, tuple):
        if not 1 <= len(message.content) <= MAX_CONTENT_PARTS:
            count = len(message.content)
            yield out_of_range(f"{field}.parts.parts", f"must be 1 to {MAX_CONTENT_PARTS} parts, are {count}")
        for index, part in enumerate(message.content[:MAX_CONTENT_PARTS]):
            if part is None:
                yield Violation(f"{field}.parts.parts[{index}].part", "REQUIRED", "text must be set")
    if len(message.tool_calls) > MAX_TOOL_CALLS:
        yield out_of_range(
            f"{field}.tool_calls", f"must be at most {MAX_TOOL_CALLS} calls, are {len(message.tool_calls)}"
        )
    for index, call in enumerate(message.tool_calls[:MAX_TOOL_CALLS]):
        path = f"{field}.tool_calls[{index}].function"
        if not call.name:
            yield Violation(f"{path}.name", "REQUIRED", "must not be empty")
        yield from _json_violations(f"{path}.arguments_json", call.arguments_json)


def _tool_violations(prompt: ChatPrompt, template: TemplateFacts) -> Iterator[Violation]:
    if len(prompt.tools) > MAX_TOOLS:
        yield out_of_range("chat.tools", f"must be at most {MAX_TOOLS}, are {len(prompt.tools)}")
    if prompt.tools and prompt.tool_choice != TOOL_CHOICE_NONE and template.is_there and not template.takes_tools:
        yield Violation("chat.tools", "NO_TOOLS", "the model's chat template knows no tools")
    for index, tool in enumerate(prompt.tools[:MAX_TOOLS]):
        path = f"chat.tools[{index}].function"
        if not tool.name:
            yield Violation(f"{path}.name", "REQUIRED", "must not be empty")
        yield from _json_violations(f"{path}.parameters_json", tool.parameters_json)


def _json_violations(field: str, text: str) -> Iterator[Violation]:
    if (size := len(text.encode())) > MAX_JSON_BYTES:
        yield out_of_range(field, f"must have at most {MAX_JSON_BYTES} bytes, has {size}")
        return
    try:
        json_object(text)
    except ValueError as error:
        yield Violation(field, "INVALID_JSON", f"must be a JSON object: {error}")


TAKEN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})
"""Of a chat template, by what else a request says, or by nobody."""


def _argument_violations(prompt: ChatPrompt) -> Iterator[Violation]:
    for name in prompt.template_arguments:
        if name in TAKEN_VARIABLES:
            yield Violation("chat.template_arguments", "TAKEN_NAME", f"must not have {quoted(name)}")
        elif not name.isidentifier():
            yield Violation("chat.template_arguments", "INVALID_NAME", f"has {quoted(name)}, which is no name in Jinja")


def _continuation_violations(last: Message, field: str) -> Iterator[Violation]:
    if last.role != "assistant":
        yield Violation(
            "chat.continue_last_message",
            "CONTRADICTION",
            f"the last message must be the assistant's, is {quoted(last.role)}'s",
        )
    if last.content is None:
        yield Violation(f"{field}.content", "REQUIRED", "must be set, for it is to be continued")


def _ignored_violations(paths: tuple[str, ...]) -> Iterator[Violation]:
    if len(paths) > MAX_IGNORED_DEFAULTS:
        yield out_of_range("ignored_defaults", f"must be at most {MAX_IGNORED_DEFAULTS} paths, are {len(paths)}")
    for index, path in enumerate(paths[:MAX_IGNORED_DEFAULTS]):
        if path not in IGNORABLE:
            yield Violation(
                f"ignored_defaults.paths[{index}]",
                "UNKNOWN_PATH",
                f"{quoted(path)} is nothing that models have defaults for",
            )


def _token_violations(prompt: TokenPrompt, truncation: int | None, facts: ModelFacts) -> Iterator[Violation]:
    if not prompt.ids:
        yield Violation("tokens.ids", "REQUIRED", "must have at least one id")
    elif (kept := kept_count(len(prompt.ids), truncation)) >= facts.context_length:
        yield Violation("tokens.ids", "PROMPT_TOO_LONG", _too_long(kept, facts.context_length))
    else:
        # What is cut off is not looked at.
        yield from id_list_violations("tokens.ids", prompt.ids, facts.vocab_size, start=len(prompt.ids) - kept)


def kept_count(prompt_token_count: int, truncation: int | None) -> int:
    """Tokens of a prompt that are kept. A truncation out of range, which is another violation, keeps all."""
    return prompt_token_count if truncation is None or truncation < 1 else min(prompt_token_count, truncation)


def _size_violations(field: str, size_bytes: int, facts: ModelFacts) -> Iterator[Violation]:
    limit = facts.context_length * MAX_BYTES_PER_TOKEN
    if size_bytes > limit:
        yield Violation(
            field,
            "PROMPT_TOO_LONG",
            f"the prompt has {size_bytes} bytes; more than {limit} are not taken for a context of"
            f" {facts.context_length} tokens",
        )


def _stop_violations(stop_sequences: tuple[str, ...]) -> Iterator[Violation]:
    if len(stop_sequences) > MAX_STOP_SEQUENCES:
        yield out_of_range("stop_sequences", f"must be at most {MAX_STOP_SEQUENCES}, are {len(stop_sequences)}")
    for index, text in enumerate(stop_sequences[:MAX_STOP_SEQUENCES]):
        size = len(text.encode())
        if not 1 <= size <= MAX_STOP_SEQUENCE_BYTES:
            yield out_of_range(
                f"stop_sequences[{index}]", f"must have 1 to {MAX_STOP_SEQUENCE_BYTES} bytes, has {size}"
            )


def _option_violations(request: Request) -> Iterator[Violation]:
    if not 0 <= request.output.top_logprobs <= MAX_TOP_LOGPROBS:
        yield out_of_range(
            "output_options.top_logprobs", f"must be from 0 to {MAX_TOP_LOGPROBS}, is {request.output.top_logprobs}"
        )
    if request.truncate_prompt is not None and request.truncate_prompt < 1:
        yield out_of_range("truncate_prompt", f"must be at least 1, is {request.truncate_prompt}")


def _too_long(count: int, limit: int) -> str:
    return f"the prompt has {count} tokens; the context of {limit} tokens must hold it and at least one token more"


def contradictions(request: Request, facts: ModelFacts) -> Iterator[Violation]:
    """What contradicts something else in the request, or can't be delivered the way it is asked for."""
    yield from _row_violations(request.config, facts)
    yield from _token_set_violations(request.config, facts)
    yield from _count_violations(request, facts)
    if (request.config.num_beams or 1) > 1:
        yield from _beam_violations(request)
    elif request.config.temperature == 0 and request.config.do_sample:
        yield _contradiction("do_sample", "must not be true with temperature 0, which means greedy")
    if request.is_stream and request.request_id:
        yield Violation(
            "request_id", "NOT_STREAMABLE", "calls of one name share one answer, and a stream has none; Generate does"
        )
    best_of, count = request.config.best_of, request.config.num_return_sequences or 1
    if request.is_stream and best_of is not None and best_of > count:
        yield _not_streamable("best_of", "which candidates are the best")
    if request.output.top_logprobs > 0 and not (request.output.logprobs or request.output.prompt_logprobs):
        yield Violation("output_options.top_logprobs", "CONTRADICTION", "needs logprobs or prompt_logprobs")


def _row_violations(config: GenerationConfig, facts: ModelFacts) -> Iterator[Violation]:
    for name in ("num_return_sequences", "best_of", "num_beams"):
        rows: int | None = getattr(config, name)
        if rows is not None and rows > facts.max_rows:
            yield Violation(
                f"generation_config.{name}",
                "TOO_MANY_ROWS",
                f"takes {rows} rows of one worker, which has {facts.max_rows}",
            )


def _token_set_violations(config: GenerationConfig, facts: ModelFacts) -> Iterator[Violation]:
    least, most = config.min_new_tokens, config.max_new_tokens
    if least is not None and most is not None and least > most:
        yield _contradiction("min_new_tokens", f"must be at most max_new_tokens {most}, is {least}")
    if config.allowed_token_ids and set(config.allowed_token_ids) <= set(config.suppress_tokens):
        yield _contradiction("allowed_token_ids", "suppress_tokens has all of them")
    elif len(config.suppress_tokens) >= facts.vocab_size and len(set(config.suppress_tokens)) >= facts.vocab_size:
        yield _contradiction("suppress_tokens", "leaves the model no token to say")


def _count_violations(request: Request, facts: ModelFacts) -> Iterator[Violation]:
    config = request.config
    count, beams, best_of = config.num_return_sequences or 1, config.num_beams or 1, config.best_of
    if beams > 1 and count > beams:
        yield _contradiction("num_return_sequences", f"must be at most num_beams {beams}, is {count}")
    made = max(count, best_of or 1)
    if beams == 1 and made > 1 and not samples(config, applied_defaults(request, facts)):
        field = "best_of" if made > count else "num_return_sequences"
        yield _contradiction(field, f"greedy decoding makes {made} candidates that do not differ")
    if best_of is not None and 1 <= best_of < count:
        yield _contradiction("best_of", f"must be at least num_return_sequences {count}, is {best_of}")


def _beam_violations(request: Request) -> Iterator[Violation]:
    if request.config.do_sample:
        yield _contradiction("do_sample", "must not be true with beam search")
    if request.config.best_of is not None:
        yield _contradiction("best_of", "must not be set with beam search")
    if request.config.max_time is not None:
        yield _contradiction("max_time", "must not be set with beam search, which has nothing before its end")
    if request.partial_on_deadline:
        yield Violation(
            "partial_on_deadline", "CONTRADICTION", "must not be set with beam search, as max_time must not"
        )
    if request.stop_sequences:
        yield Violation("stop_sequences", "CONTRADICTION", "must not be set with beam search")
    if request.output.logprobs:
        yield Violation("output_options.logprobs", "CONTRADICTION", "must not be set with beam search")
    if request.is_stream:
        yield _not_streamable("num_beams", "the answer of a beam search")


def _contradiction(field: str, description: str) -> Violation:
    return Violation(f"generation_config.{field}", "CONTRADICTION", description)


def _not_streamable(field: str, what: str) -> Violation:
    return Violation(
        f"generation_config.{field}", "NOT_STREAMABLE", f"{what} is known at the end only; Generate gives it"
    )


RESUMED_FIELD = "resume_from.candidates"
MAX_RESUMED_CANDIDATES = 1024


def held_count(resumed: Iterable[ResumedCandidate]) -> int:
    """Tokens that the caller holds."""
    return sum(len(candidate.token_ids) for candidate in resumed)


def resumption_violations(
    resumed: Many[ResumedCandidate], config: GenerationConfig, facts: ModelFacts
) -> Iterator[Violation]:
    """What is wrong before the effective parameters are known."""
    if not resumed:
        return
    if config.seed is None:
        yield Violation("generation_config.seed", "REQUIRED", "resume_from needs the seed that the lost call reported")
    yield from _index_violations(resumed)
    for place, candidate in enumerate(resumed):
        field = f"{RESUMED_FIELD}[{place}].token_ids"
        yield from id_list_violations(field, candidate.token_ids, facts.vocab_size, limit=facts.context_length)


def fit_violations(resumed: Many[ResumedCandidate], config: EffectiveConfig) -> Iterator[Violation]:
    """What does not fit the effective parameters."""
    if resumed and config.num_beams > 1:
        yield Violation(
            RESUMED_FIELD, "CONTRADICTION", "must be empty with beam search, which has nothing before its end"
        )
    if resumed and config.is_ranked:
        yield Violation(
            RESUMED_FIELD, "CONTRADICTION", "must be empty with best_of, which ranks by all tokens' probabilities"
        )
    for place, candidate in enumerate(resumed):
        if candidate.candidate_index >= config.sequence_count:
            yield out_of_range(
                f"{RESUMED_FIELD}[{place}].candidate_index",
                f"must be below {config.sequence_count}, the number of candidates, is {candidate.candidate_index}",
            )
        if len(candidate.token_ids) > config.max_new_tokens:
            yield out_of_range(
                f"{RESUMED_FIELD}[{place}].token_ids",
                f"must be at most max_new_tokens {config.max_new_tokens} ids, are {len(candidate.token_ids)}",
            )


def _index_violations(resumed: Iterable[ResumedCandidate]) -> Iterator[Violation]:
    seen: set[int] = set()
    for place, candidate in enumerate(resumed):
        index, field = candidate.candidate_index, f"{RESUMED_FIELD}[{place}].candidate_index"
        if index < 0:
            yield out_of_range(field, f"must be at least 0, is {index}")
        elif index in seen:
            yield Violation(field, "DUPLICATE", f"candidate {index} comes twice")
        seen.add(index)
