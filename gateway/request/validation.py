"""Checks a request against the model that is to serve it. Pure: it returns what is wrong, and all of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..domain.errors import Violation, out_of_range, quoted
from ..domain.generation_config import GenerationConfig, config_violations, id_list_violations
from ..domain.request import ModelFacts, Request, TemplateFacts
from .defaults import IGNORABLE, applied_defaults, samples
from .prompt_validation import prompt_violations, too_long

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as Many

    from ..domain.generation_config import EffectiveConfig
    from ..domain.request import ResumedCandidate

MAX_STOP_SEQUENCES = 16
MAX_STOP_SEQUENCE_BYTES = 256
MAX_IGNORED_DEFAULTS = 64
MAX_TOP_LOGPROBS = 20


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


def length_violations(
    prompt_token_count: int, prompt_field: str, request: Request, facts: ModelFacts
) -> Iterator[Violation]:
    """What is wrong with the length in tokens of the prompt that is kept, alone and with what the request asks for."""
    limit = facts.context_length
    if prompt_token_count < 1:
        yield Violation(prompt_field, "REQUIRED", "the prompt gives no token")
    elif prompt_token_count >= limit:
        yield Violation(prompt_field, "PROMPT_TOO_LONG", too_long(prompt_token_count, limit))
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
