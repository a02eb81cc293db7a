"""Turns a request into a generation: checked, tokenized and with every parameter known."""

import asyncio
from collections.abc import Callable, Iterator

from .chat_template import ChatTurn, TemplateError
from .detokenizer import Detokenizer
from .effective import EffectiveConfig, resolve
from .errors import Violation, invalid_request, model_not_found, no_worker, shortened
from .generation import Generation
from .limits import kept_count, length_violations, output_room, request_violations
from .models import Models, ServedModel
from .output_text import OutputText, Stopping
from .request import (
    Call,
    ChatPrompt,
    ModelFacts,
    OutputOptions,
    Prompt,
    Request,
    ResumedCandidate,
    TextPrompt,
    TokenPrompt,
)
from .resumption import fit_violations, held_count, remaining_output, resume
from .seeds import candidate_seeds
from .sequence import Sequence
from .sequence_ids import SequenceIds
from .tokenizer import Tokenizer

# Text up to this length is tokenized on the event loop: it takes less time than a change of threads is worth.
INLINE_CHARS = 4096
INLINE_TOKENS = 256


class Admission:
    """Makes generations of requests.

    Args:
        models: The served model.
        new_seed: Gives a seed for a request that sets none, from 0 to 2**53 - 1.
    """

    def __init__(self, models: Models, *, new_seed: Callable[[], int]) -> None:
        self._models = models
        self._new_seed = new_seed
        self._sequence_ids = SequenceIds()

    async def admit(self, request: Request, call: Call) -> Generation:
        """The generation that `request` asks for, with what is known of its call.

        Raises ServiceError: NO_WORKER before any worker has been ready, or if another model has taken the place of the
        one that it was tokenized for; MODEL_NOT_FOUND; or what is wrong with it.
        """
        model = self._model(request.model)
        violations = request_violations(request, model.facts, has_chat_template=model.tokenizer.has_chat_template)
        if violations or request.prompt is None:
            raise invalid_request(violations)
        whole = await tokenize(request.prompt, model.tokenizer)
        prompt_ids = whole[len(whole) - kept_count(len(whole), request.truncate_prompt) :]
        field = _field(request.prompt)
        wrong = [
            *length_violations(len(prompt_ids), field, request, model.facts),
            *_unknown_token(prompt_ids, field, model),
        ]
        if wrong:
            raise invalid_request(wrong)
        return await self._generation(request, model, prompt_ids, call)

    def _model(self, name: str) -> ServedModel:
        model = self._models.current
        if model is None:
            raise no_worker()
        if name not in {"", model.facts.name}:
            raise model_not_found(name, model.facts.name)
        return model

    async def _generation(self, request: Request, model: ServedModel, prompt_ids: list[int], call: Call) -> Generation:
        facts = model.facts
        room = output_room(len(prompt_ids), request.config, facts)
        config = resolve(request.config, facts.generation_defaults, room=room, seed=self._new_seed())
        if unfit := list(fit_violations(request.resumed, config)):
            raise invalid_request(unfit)
        prompt_text, detokenizer = await _detokenizer(request.output, model.tokenizer, prompt_ids)
        texts = _texts(request, config, detokenizer)
        output = remaining_output(request.output, request.resumed)
        has_logprobs = request.output.logprobs or config.is_ranked
        sequences = tuple(
            Sequence(
                sequence_id=self._sequence_ids.next(has_logprobs=has_logprobs),
                candidate_index=index,
                seed=seed,
                text=next(texts),
                output=output,
                arrived_at=call.arrived_at,
            )
            for index, seed in enumerate(candidate_seeds(config.seed, config.sequence_count))
        )
        await _resume(sequences, request.resumed, config, facts)
        if not self._models.serves(model):
            raise no_worker()
        return Generation(
            facts,
            prompt_ids,
            "" if held_count(request.resumed) else prompt_text,
            config,
            output,
            sequences,
            caller=call.caller,
            deadline_at=call.deadline_at,
            server_request_id=call.server_request_id,
        )


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
            f"has {model.tokenizer.name_of(token_id)!r}, for the tokenizer token {token_id}, for which the model has"
            f" no embedding: its ids end at {vocab_size - 1}",
        )


async def tokenize(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The prompt's token ids. Long prompts are tokenized on a thread, so that running streams go on.

    Raises ServiceError if the chat template refuses the messages.
    """
    if _chars(prompt) <= INLINE_CHARS:
        return _encode(prompt, tokenizer)
    return await asyncio.to_thread(_encode, prompt, tokenizer)


async def _detokenizer(output: OutputOptions, tokenizer: Tokenizer, prompt_ids: list[int]) -> tuple[str, Detokenizer]:
    """The prompt's text if it is to be echoed, else "", and a detokenizer that goes on behind the prompt."""
    if not output.echo:
        return "", Detokenizer(tokenizer, prompt_ids, skip_special_tokens=output.skip_special_tokens)
    if len(prompt_ids) <= INLINE_TOKENS:
        return _echo(output, tokenizer, prompt_ids)
    return await asyncio.to_thread(_echo, output, tokenizer, prompt_ids)


async def _resume(
    sequences: tuple[Sequence, ...], resumed: tuple[ResumedCandidate, ...], config: EffectiveConfig, facts: ModelFacts
) -> None:
    """Gives the sequences what their caller holds of them. Raises ServiceError for tokens behind an end."""
    if held_count(resumed) <= INLINE_TOKENS:
        violations = list(resume(sequences, resumed, config, facts))
    else:
        violations = await asyncio.to_thread(lambda: list(resume(sequences, resumed, config, facts)))
    if violations:
        raise invalid_request(violations)


def _texts(request: Request, config: EffectiveConfig, detokenizer: Detokenizer) -> Iterator[OutputText]:
    """A text for each candidate, standing behind the prompt."""
    stopping = Stopping(
        sequences=request.stop_sequences,
        token_ids=frozenset(config.stop_token_ids),
        min_new_tokens=config.min_new_tokens,
        is_included=request.output.include_stop_sequence,
    )
    while True:
        yield OutputText(detokenizer.fork(), stopping)


def _echo(output: OutputOptions, tokenizer: Tokenizer, prompt_ids: list[int]) -> tuple[str, Detokenizer]:
    # Prompt and output are decoded as one: the prompt may end within a character that the output completes.
    detokenizer = Detokenizer(tokenizer, (), skip_special_tokens=output.skip_special_tokens)
    return "".join(detokenizer.push(token_id) for token_id in prompt_ids), detokenizer


def _encode(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    match prompt:
        case TextPrompt(text):
            return tokenizer.encode(text)
        case TokenPrompt(ids):
            return list(ids)
        case ChatPrompt(messages):
            turns = [ChatTurn(message.role, message.content) for message in messages]
            try:
                return tokenizer.encode_chat(turns)
            except TemplateError as error:
                raise invalid_request(
                    [Violation("chat.messages", "TEMPLATE_REFUSED", shortened(str(error)))]
                ) from error


def _chars(prompt: Prompt) -> int:
    match prompt:
        case TextPrompt(text):
            return len(text)
        case TokenPrompt():
            return 0
        case ChatPrompt(messages):
            return sum(len(message.role) + len(message.content) for message in messages)


def _field(prompt: Prompt) -> str:
    match prompt:
        case TextPrompt():
            return "text"
        case TokenPrompt():
            return "tokens.ids"
        case ChatPrompt():
            return "chat"
