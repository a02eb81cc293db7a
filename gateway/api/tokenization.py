"""TokenizationService: prompts into tokens and back, by the gateway alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textserve.v1 import tokenization_pb2 as pb
from textserve.v1 import tokenization_pb2_grpc

from ..domain.errors import Violation, invalid_request, out_of_range
from ..domain.generation_config import id_list_violations
from ..domain.request import ChatPrompt, Request, TextPrompt
from ..request.executor import INLINE_CHARS
from ..request.preprocess import template_refusals
from ..request.prompt_validation import MAX_PROMPT_IDS, prompt_violations
from .codec import list_violations, read_chat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from ..domain.request import Call
    from ..domain.served_model import Models, ServedModel
    from ..request.executor import Executors
    from .services import Calls, Context

    T = TypeVar("T")

MAX_PIECES = 65_536
PIECE_CHARS = 16
"""The work that a character of a text brings whose pieces are told, in characters of one that is only tokenized."""


class TokenizationServicer(tokenization_pb2_grpc.TokenizationServiceServicer):
    """Answers from the tokenizer of the served model.

    Args:
        models: The served model.
        executors: The threads that large texts are worked on.
        calls: What is known of each call.
    """

    def __init__(self, models: Models, executors: Executors, calls: Calls) -> None:
        self._models = models
        self._executors = executors
        self._calls = calls

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:  # noqa: N802 - gRPC's name
        """The tokens of a prompt."""
        model = self._models.named(request.model)
        chars = len(request.text) + request.chat.ByteSize()
        work = chars * PIECE_CHARS if request.include_pieces else chars
        if violations := list(list_violations(request)):
            raise invalid_request(violations)
        return await self._run(lambda: _tokenize(request, model), self._calls.call(context), work)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:  # noqa: N802 - gRPC's name
        """The text of tokens."""
        model = self._models.named(request.model)
        if violations := list(list_violations(request)):
            raise invalid_request(violations)
        work = len(request.token_ids) * PIECE_CHARS
        return await self._run(lambda: _detokenize(request, model), self._calls.call(context), work)

    async def _run(self, work: Callable[[], T], call: Call, chars: int) -> T:
        if chars <= INLINE_CHARS:
            return work()
        return await self._executors.prepare(work, call, chars)


def _tokenize(request: pb.TokenizeRequest, model: ServedModel) -> pb.TokenizeResponse:
    tokenizer = model.tokenizer
    rendered, is_chat = _rendered(request, model), request.WhichOneof("prompt") == "chat"
    token_ids = tokenizer.encode(rendered, add_special_tokens=not is_chat)
    response = pb.TokenizeResponse(token_count=len(token_ids), token_ids=token_ids)
    if request.include_pieces:
        if len(token_ids) > MAX_PIECES:
            text = f"must not be set for more than {MAX_PIECES} tokens; the prompt has {len(token_ids)}"
            raise invalid_request([out_of_range("include_pieces", text)])
        for piece in tokenizer.pieces(rendered, add_special_tokens=not is_chat):
            response.pieces.add(piece=piece.data, begin=piece.begin, end=piece.end, is_special=piece.is_special)
    if request.include_rendered_prompt:
        response.rendered_prompt = rendered
    return response


def _rendered(request: pb.TokenizeRequest, model: ServedModel) -> str:
    """The text that is tokenized. Raises ServiceError for what Generate would refuse."""
    prompt: TextPrompt | ChatPrompt | None = None
    match request.WhichOneof("prompt"):
        case "text":
            prompt = TextPrompt(request.text)
        case "chat":
            prompt = read_chat(request.chat)
        case None:
            raise invalid_request([Violation("prompt", "REQUIRED", "one of text and chat must be set")])
    if violations := list(prompt_violations(Request(prompt), model.facts, model.template)):
        raise invalid_request(violations)
    if isinstance(prompt, TextPrompt):
        return prompt.text
    with template_refusals():
        return model.tokenizer.render(prompt)


def _detokenize(request: pb.DetokenizeRequest, model: ServedModel) -> pb.DetokenizeResponse:
    if violations := list(_id_violations(request, model)):
        raise invalid_request(violations)
    skips = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
    return pb.DetokenizeResponse(text=model.tokenizer.decode(request.token_ids, skip_special_tokens=skips))


def _id_violations(request: pb.DetokenizeRequest, model: ServedModel) -> Iterator[Violation]:
    known = max(model.facts.vocab_size, model.tokenizer.id_count)
    yield from id_list_violations("token_ids", request.token_ids, known, limit=MAX_PROMPT_IDS)
