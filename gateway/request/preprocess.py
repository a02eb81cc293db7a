"""Turns a request into a generation: checked, tokenized and with every parameter known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count as count_from
from typing import TYPE_CHECKING

from ..domain.errors import Violation, invalid_request, no_worker, quoted, shortened
from ..domain.generation import Generation
from ..domain.generation_config import PIECE, EffectiveConfig
from ..domain.request import Call, ChatPrompt, OutputOptions, Prompt, Request, TextPrompt, TokenPrompt
from ..domain.sequence import Sequence, SequenceIds, Status
from ..domain.served_model import Models, ServedModel, Tokenizer
from ..text.chat_template import TemplateError
from ..text.detokenizer import Detokenizer
from ..text.output_text import OutputText, Stopping
from .defaults import applied_defaults, effective_stops, resolve
from .executor import INLINE_CHARS, Executors
from .prompt_validation import kept_count
from .validation import (
    RESUMED_FIELD,
    fit_violations,
    held_count,
    length_violations,
    output_room,
    request_violations,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as Many

    from ..domain.request import ModelFacts, ResumedCandidate


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that has not been read yet. `model` is the one that it is for, empty for any.

    `read` decodes it; `chars` is how much work it is, in characters of a prompt that take as long to tokenize.
    """

    model: str
    read: Callable[[], Request]
    chars: int


class Preprocessor:
    """Makes generations of requests.

    Args:
        models: The served model.
        executors: The threads that large requests are worked on.
        new_seed: Gives a seed for a request that sets none, from 0 to 2**53 - 1.
    """

    def __init__(self, models: Models, executors: Executors, *, new_seed: Callable[[], int]) -> None:
        self._models = models
        self._executors = executors
        self._new_seed = new_seed
        self._sequence_ids = SequenceIds()

    async def prepare(self, arrival: Arrival, call: Call) -> Generation:
        """The generation that a request asks for, with what is known of its call.

        Everything that grows with the request is done on a thread if it is large, so that running streams go on.

        Raises ServiceError: NO_WORKER before any worker has been ready, or if another model has taken the place of the
        one that it was tokenized for; MODEL_NOT_FOUND; what is wrong with it; or what `Executor.run` raises.
        """
        model = self._models.named(arrival.model)
        if arrival.chars <= INLINE_CHARS:
            return self._generation(arrival.read(), model, call)
        generation = await self._executors.prepare(
            lambda: self._generation(arrival.read(), model, call), call, arrival.chars
        )
        if not self._models.serves(model):
            raise no_worker()
        return generation

    def _generation(self, request: Request, model: ServedModel, call: Call) -> Generation:
        facts = model.facts
        prompt_ids = _prompt_ids(request, model)
        room = output_room(len(prompt_ids), request.config, facts)
        seed = self._new_seed() if request.config.seed is None else request.config.seed
        config = resolve(request.config, applied_defaults(request, facts), room=room, seed=seed)
        if unfit := list(fit_violations(request.resumed, config)):
            raise invalid_request(unfit)
        prompt_text, detokenizer = _detokenizer(request.output, model.tokenizer, prompt_ids)
        stop_sequences = effective_stops(request, facts, config)
        text = OutputText(detokenizer, _stopping(request, config, stop_sequences))
        texts = [text, *(text.fork() for _ in range(1, config.sequence_count))]
        output = remaining_output(request.output, request.resumed)
        has_logprobs = request.output.logprobs or config.is_ranked
        sequences = tuple(
            Sequence(
                sequence_id=self._sequence_ids.next(has_logprobs=has_logprobs),
                candidate_index=index,
                seed=seed,
                text=text,
                output=output,
                arrived_at=call.arrived_at,
            )
            for index, (seed, text) in enumerate(zip(candidate_seeds(config.seed, len(texts)), texts, strict=True))
        )
        if behind := list(resume(sequences, request.resumed, config, facts)):
            raise invalid_request(behind)
        return Generation(
            facts,
            prompt_ids,
            "" if held_count(request.resumed) else prompt_text,
            config,
            output,
            sequences,
            stop_sequences=stop_sequences,
            caller=call.caller,
            deadline_at=call.deadline_at,
            server_request_id=call.server_request_id,
        )


def _prompt_ids(request: Request, model: ServedModel) -> list[int]:
    """The tokens of the prompt that are kept. Raises ServiceError with everything that is wrong with the request."""
    violations = request_violations(request, model.facts, model.template)
    if violations or request.prompt is None:
        raise invalid_request(violations)
    prompt_ids = _encode(request.prompt, model.tokenizer, request.truncate_prompt)
    field = _field(request.prompt)
    wrong = [
        *length_violations(len(prompt_ids), field, request, model.facts),
        *_unknown_token(prompt_ids, field, model),
    ]
    if wrong:
        raise invalid_request(wrong)
    return prompt_ids


def _unknown_token(prompt_ids: list[int], prompt_field: str, model: ServedModel) -> Iterator[Violation]:
    """The first token of a prompt that the model has no embedding for: tokens can be added to the tokenizer alone."""
    vocab_size = model.facts.vocab_size
    if model.tokenizer.id_count <= vocab_size:
        return
    token_id = next((token_id for token_id in prompt_ids if token_id >= vocab_size), None)
    if token_id is not None:
        yield Violation(
            prompt_field,
            "UNKNOWN_TOKEN",
            f"has {quoted(model.tokenizer.name_of(token_id) or '')}, for the tokenizer token {token_id}, for which the"
            f" model has no embedding: its ids end at {vocab_size - 1}",
        )


def _detokenizer(output: OutputOptions, tokenizer: Tokenizer, prompt_ids: list[int]) -> tuple[str, Detokenizer]:
    """The prompt's text if it is to be echoed, else "", and a detokenizer that goes on behind the prompt."""
    if not output.echo:
        return "", Detokenizer(tokenizer, prompt_ids, skip_special_tokens=output.skip_special_tokens)
    # Prompt and output are decoded as one: the prompt may end within a character that the output completes.
    detokenizer = Detokenizer(tokenizer, (), skip_special_tokens=output.skip_special_tokens)
    return "".join(detokenizer.push(token_id) for token_id in prompt_ids), detokenizer


def _stopping(request: Request, config: EffectiveConfig, stop_sequences: tuple[str, ...]) -> Stopping:
    return Stopping(
        sequences=stop_sequences,
        token_ids=frozenset(config.stop_token_ids),
        min_new_tokens=config.min_new_tokens,
        is_included=request.output.include_stop_sequence,
    )


def _encode(prompt: Prompt, tokenizer: Tokenizer, truncation: int | None) -> list[int]:
    match prompt:
        case TextPrompt(text):
            return _kept(tokenizer.encode(text), truncation)
        case TokenPrompt(ids):
            return _kept(ids, truncation)
        case ChatPrompt():
            with template_refusals():
                return _kept(tokenizer.encode_chat(prompt), truncation)


@contextmanager
def template_refusals() -> Iterator[None]:
    """Tells the caller what a chat template says against the messages."""
    try:
        yield
    except TemplateError as error:
        raise invalid_request([Violation("chat.messages", "TEMPLATE_REFUSED", shortened(str(error)))]) from error


def _kept(ids: Many[int], truncation: int | None) -> list[int]:
    start = len(ids) - kept_count(len(ids), truncation)
    return [token_id for begin in range(start, len(ids), PIECE) for token_id in ids[begin : begin + PIECE]]


def _field(prompt: Prompt) -> str:
    match prompt:
        case TextPrompt():
            return "text"
        case TokenPrompt():
            return "tokens.ids"
        case ChatPrompt():
            return "chat"


def remaining_output(output: OutputOptions, resumed: Iterable[ResumedCandidate]) -> OutputOptions:
    """What is still to be delivered: the prompt's log-probabilities came before the first token."""
    return replace(output, prompt_logprobs=False) if held_count(resumed) else output


def resume(
    sequences: Many[Sequence], resumed: Iterable[ResumedCandidate], config: EffectiveConfig, facts: ModelFacts
) -> Iterator[Violation]:
    """Gives each sequence the tokens that its caller holds from a call that it lost, before anything else.

    They are replayed through its text, so that the detokenizer, the search for stop sequences, text offsets and usage
    stand where they stood when the last of them was delivered; only what follows is delivered. Nothing of the lost call
    is needed: any gateway can do it. A candidate whose tokens are its whole output ends.
    One without tokens is given that its caller holds the echo: that came first, and may have been all that came.

    Takes time linear in the tokens. Yields a violation for tokens behind an end; the sequences are then of no use.
    """
    eos_token_ids = frozenset() if config.ignore_eos else frozenset(facts.eos_token_ids)
    for place, candidate in enumerate(resumed):
        sequence = sequences[candidate.candidate_index]
        taken = _replay(sequence, candidate.token_ids, config, eos_token_ids)
        if taken < len(candidate.token_ids):
            reason = f"ends with the token at {taken - 1}: {sequence.status.name}"
            yield Violation(f"{RESUMED_FIELD}[{place}].token_ids[{taken}]", "BEHIND_THE_END", f"the output {reason}")


def _replay(sequence: Sequence, token_ids: Many[int], config: EffectiveConfig, eos_token_ids: frozenset[int]) -> int:
    """Returns how many of the tokens were taken until the sequence ended, if it did."""
    for count, token_id in enumerate(token_ids, start=1):
        sequence.replay(token_id)
        if (end := _end(token_id, count, config, eos_token_ids)) is not None:
            sequence.finish(end)
        if sequence.finished:
            break
    sequence.hold_as_taken()
    return sequence.output_token_count


def _end(token_id: int, count: int, config: EffectiveConfig, eos_token_ids: frozenset[int]) -> Status | None:
    """How a worker ends a sequence with this token, the count-th; None if it goes on."""
    if token_id in eos_token_ids:
        return Status.END_OF_SEQUENCE
    if token_id in config.stop_token_ids:
        return Status.STOP_TOKEN
    return Status.LENGTH if count == config.max_new_tokens else None


SEED_LIMIT = 2**53
"""JavaScript and JSON readers keep integers exact below this."""

_MASK = SEED_LIMIT - 1


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Distinct seeds for `count` candidates: first `seed` itself, then derived ones below SEED_LIMIT.

    The seed of a candidate depends on `seed` and its index alone, not on how many there are.
    """
    seeds = [seed]
    start = _mix(seed ^ (seed >> 53))
    for index in count_from(1):
        if len(seeds) == count:
            break
        # A permutation of different numbers: the only one that can come twice is the request's own.
        derived = _mix(start + index)
        if derived != seed:
            seeds.append(derived)
    return seeds


def _mix(value: int) -> int:
    """A permutation of the numbers below SEED_LIMIT: the finalizer of MurmurHash3 (fmix64), cut to 53 bits."""
    value &= _MASK
    value = ((value ^ (value >> 27)) * 0xFF51AFD7ED558CCD) & _MASK
    value = ((value ^ (value >> 27)) * 0xC4CEB9FE1A85EC53) & _MASK
    return value ^ (value >> 27)
