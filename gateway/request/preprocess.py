"""Turns a request into a generation: checked, tokenized and with every parameter known."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from ..domain.errors import Violation, invalid_request, model_not_found, no_worker, shortened
from ..domain.generation import Generation
from ..domain.request import Call, ChatPrompt, OutputOptions, Prompt, Request, TextPrompt, TokenPrompt
from ..domain.sequence import Sequence
from ..domain.served_model import Models, ServedModel
from ..text.chat_template import ChatTurn, TemplateError
from ..text.detokenizer import Detokenizer
from ..text.output_text import OutputText, Stopping
from ..text.tokenizer import Tokenizer
from .config_limits import PIECE
from .defaults import EffectiveConfig, effective_stops, resolve
from .executor import INLINE_CHARS, Executors
from .resumption import fit_violations, held_count, remaining_output, resume
from .seeds import candidate_seeds
from .sequence_ids import SequenceIds
from .validation import kept_count, length_violations, output_room, request_violations


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that has not been read yet. `model` is the one that it is for, empty for any.

    `read` decodes it; `chars` is how much work it is, in characters of a prompt that take as long to tokenize.
    """

    model: str
    read: Callable[[], Request]
    chars: int


class Admission:
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

    async def admit(self, arrival: Arrival, call: Call) -> Generation:
        """The generation that a request asks for, with what is known of its call.

        Everything that grows with the request is done on a thread if it is large, so that running streams go on.

        Raises ServiceError: NO_WORKER before any worker has been ready, or if another model has taken the place of the
        one that it was tokenized for; MODEL_NOT_FOUND; what is wrong with it; or what `Executor.run` raises.
        """
        model = self._model(arrival.model)
        if arrival.chars <= INLINE_CHARS:
            return self._generation(arrival.read(), model, call)
        generation = await self._executors.admit(
            lambda: self._generation(arrival.read(), model, call), call, arrival.chars
        )
        if not self._models.serves(model):
            raise no_worker()
        return generation

    def _model(self, name: str) -> ServedModel:
        model = self._models.current
        if model is None:
            raise no_worker()
        if name not in {"", model.facts.name}:
            raise model_not_found(name, model.facts.name)
        return model

    def _generation(self, request: Request, model: ServedModel, call: Call) -> Generation:
        facts = model.facts
        prompt_ids = _prompt_ids(request, model)
        room = output_room(len(prompt_ids), request.config, facts)
        config = resolve(request.config, facts.generation_defaults, room=room, seed=self._new_seed())
        if unfit := list(fit_violations(request.resumed, config)):
            raise invalid_request(unfit)
        prompt_text, detokenizer = _detokenizer(request.output, model.tokenizer, prompt_ids)
        stop_sequences = effective_stops(request.stop_sequences, facts.stop_sequences, config)
        text = OutputText(detokenizer, _stopping(request, config, stop_sequences))
        output = remaining_output(request.output, request.resumed)
        has_logprobs = request.output.logprobs or config.is_ranked
        sequences = tuple(
            Sequence(
                sequence_id=self._sequence_ids.next(has_logprobs=has_logprobs),
                candidate_index=index,
                seed=seed,
                text=text.fork(),
                output=output,
                arrived_at=call.arrived_at,
            )
            for index, seed in enumerate(candidate_seeds(config.seed, config.sequence_count))
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
    violations = request_violations(request, model.facts, has_chat_template=model.tokenizer.has_chat_template)
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
            f"has {model.tokenizer.name_of(token_id)!r}, for the tokenizer token {token_id}, for which the model has"
            f" no embedding: its ids end at {vocab_size - 1}",
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
        case ChatPrompt(messages):
            turns = [ChatTurn(message.role, message.content) for message in messages]
            try:
                return _kept(tokenizer.encode_chat(turns), truncation)
            except TemplateError as error:
                raise invalid_request(
                    [Violation("chat.messages", "TEMPLATE_REFUSED", shortened(str(error)))]
                ) from error


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
