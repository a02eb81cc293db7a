"""Checks that what a request sets fits together, and that a worker has the rows for it. Pure."""

from collections.abc import Iterator

from ..domain.errors import Violation
from ..domain.request import GenerationConfig, ModelFacts, Request
from .defaults import samples


def contradictions(request: Request, facts: ModelFacts) -> Iterator[Violation]:
    """What contradicts something else in the request, or can't be delivered the way it is asked for."""
    yield from _row_violations(request.config, facts)
    yield from _token_violations(request.config, facts)
    yield from _count_violations(request.config, facts)
    if (request.config.num_beams or 1) > 1:
        yield from _beam_violations(request)
    elif request.config.temperature == 0 and request.config.do_sample:
        yield _config("do_sample", "must not be true with temperature 0, which means greedy")
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


def _token_violations(config: GenerationConfig, facts: ModelFacts) -> Iterator[Violation]:
    least, most = config.min_new_tokens, config.max_new_tokens
    if least is not None and most is not None and least > most:
        yield _config("min_new_tokens", f"must be at most max_new_tokens {most}, is {least}")
    if config.allowed_token_ids and set(config.allowed_token_ids) <= set(config.suppress_tokens):
        yield _config("allowed_token_ids", "suppress_tokens has all of them")
    elif len(config.suppress_tokens) >= facts.vocab_size and len(set(config.suppress_tokens)) >= facts.vocab_size:
        yield _config("suppress_tokens", "leaves the model no token to say")


def _count_violations(config: GenerationConfig, facts: ModelFacts) -> Iterator[Violation]:
    count, beams, best_of = config.num_return_sequences or 1, config.num_beams or 1, config.best_of
    if beams > 1 and count > beams:
        yield _config("num_return_sequences", f"must be at most num_beams {beams}, is {count}")
    made = max(count, best_of or 1)
    if beams == 1 and made > 1 and not samples(config, facts.generation_defaults):
        field = "best_of" if made > count else "num_return_sequences"
        yield _config(field, f"greedy decoding makes {made} candidates that do not differ")
    if best_of is not None and 1 <= best_of < count:
        yield _config("best_of", f"must be at least num_return_sequences {count}, is {best_of}")


def _beam_violations(request: Request) -> Iterator[Violation]:
    if request.config.do_sample:
        yield _config("do_sample", "must not be true with beam search")
    if request.config.best_of is not None:
        yield _config("best_of", "must not be set with beam search")
    if request.config.max_time is not None:
        yield _config("max_time", "must not be set with beam search, which has nothing before its end")
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


def _config(field: str, description: str) -> Violation:
    return Violation(f"generation_config.{field}", "CONTRADICTION", description)


def _not_streamable(field: str, what: str) -> Violation:
    return Violation(
        f"generation_config.{field}", "NOT_STREAMABLE", f"{what} is known at the end only; Generate gives it"
    )
