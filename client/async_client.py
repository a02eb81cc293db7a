"""The client for asyncio: only input and output, as in `sync_client`; what they share is in `_base`."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, Unpack

import grpc
import grpc.aio

from textserve.v1 import generation_pb2, generation_pb2_grpc, model_pb2_grpc, tokenization_pb2_grpc

from ._base import BaseClient, BaseStream
from ._channel import open_aio_channel
from ._wire.convert import estimate_from, generation_from, model_from, models_from, tokenization_from
from ._wire.request import (
    detokenize_request,
    estimate_request,
    generate_request,
    model_request,
    models_request,
    tokenize_request,
)
from .errors._status import cancelled_locally, client_closed, mapped_errors
from .types.events import Delta
from .types.options import GenerateOptions, TokenizeOptions
from .types.values import Estimate, Generation, Model, Prompt, Tokenization


class AsyncStream(BaseStream, AsyncIterator[Delta]):
    """The deltas of one generation, as they are made; `Stream` for asyncio.

    Use it with `async with`: entering waits until the first token is there, leaving it in any way cancels
    what is still running. A stream that is not entered is cancelled when nothing refers to it any more, as after
    `async for delta in client.stream(...): break`. Every error of the tree in `errors` may be raised while entering or
    iterating; the deltas delivered before it stand. Several candidates are told apart by their deltas'
    `candidate_index`, as with `Stream`.
    """

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.StreamGenerateResponse]
    ) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._call = call
        self._messages = aiter(call)

    async def close(self) -> None:
        """Cancels what is still running."""
        self._call.cancel()

    def __del__(self) -> None:
        # The call and its iterator refer to each other: by themselves they would wait for the garbage collector, while
        # the server goes on. This may be any thread, and any point of what the loop does.
        if not self._call.done():
            with suppress(RuntimeError):  # the loop is closed, and its calls with it
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def __anext__(self) -> Delta:
        while (delta := await self._read()) is None:
            pass
        return delta

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _start(self) -> None:
        while not self._transcript.has_started:
            await self._read()

    async def _read(self) -> Delta | None:
        with _mapped_errors():
            message = await anext(self._messages, None)
        if message is None:
            self._transcript.end()
            raise StopAsyncIteration
        return self._take(message)


@dataclass(frozen=True, slots=True)
class _Connection:
    """A channel, and the event loop that it belongs to."""

    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub"
    model: "model_pb2_grpc.ModelServiceAsyncStub"
    tokenization: "tokenization_pb2_grpc.TokenizationServiceAsyncStub"


class AsyncClient(BaseClient):
    """A connection to a textserve gateway, for asyncio. Takes what `Client` takes.

    It may be created anywhere, at module level too, and belongs to the event loop of its first call: calls in another
    one, as `asyncio.run` makes each time, raise RuntimeError.
    """

    def _open(self) -> None:
        self._connection: _Connection | None = None

    async def generate(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Generates a continuation of the prompt, and returns it whole; see `Client.generate`."""
        request, terms = generate_request(prompt, **options), self._terms(timeout)
        stub = self._connect().generation
        with _mapped_errors():
            response = await stub.Generate(request, **terms)
        return generation_from(response)

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncStream:
        """Generates a continuation of the prompt, and returns it piece by piece; see `Client.stream`."""
        request, terms = generate_request(prompt, **options), self._terms(timeout)
        stub = self._connect().generation
        return AsyncStream(stub.StreamGenerate(request, **terms))

    async def models(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
    ) -> list[Model]:
        """The models that can be named in `generate`. Raises TextserveError."""
        request, terms = models_request(), self._terms(timeout)
        stub = self._connect().model
        models: list[Model] = []
        while True:
            with _mapped_errors():
                response = await stub.ListModels(request, **terms)
            models += models_from(response)
            if not response.next_page_token:
                return models
            request = models_request(response.next_page_token)

    async def estimate(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
        **options: Unpack[GenerateOptions],
    ) -> Estimate:
        """What `generate` would be, and how long it would take now; see `Client.estimate`."""
        request, terms = estimate_request(prompt, **options), self._terms(timeout)
        stub = self._connect().generation
        with _mapped_errors():
            response = await stub.EstimateGenerate(request, **terms)
        return estimate_from(response)

    async def tokenize(
        self,
        prompt: Prompt,
        *,
        pieces: bool = False,
        rendered_prompt: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
        **options: Unpack[TokenizeOptions],
    ) -> Tokenization:
        """The tokens that `generate` would make of a prompt; see `Client.tokenize`."""
        request = tokenize_request(prompt, pieces=pieces, rendered_prompt=rendered_prompt, **options)
        terms = self._terms(timeout)
        stub = self._connect().tokenization
        with _mapped_errors():
            response = await stub.Tokenize(request, **terms)
        return tokenization_from(response)

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        model: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
    ) -> str:
        """The text of tokens; see `Client.detokenize`."""
        request = detokenize_request(token_ids, skip_special_tokens=skip_special_tokens, model=model)
        terms = self._terms(timeout)
        stub = self._connect().tokenization
        with _mapped_errors():
            response = await stub.Detokenize(request, **terms)
        return response.text

    async def model(
        self,
        name: str = "",
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
    ) -> Model:
        """A model by its name, or the one that is served. Raises NotFoundError, or another TextserveError."""
        request, terms = model_request(name), self._terms(timeout)
        stub = self._connect().model
        with _mapped_errors():
            response = await stub.GetModel(request, **terms)
        return model_from(response.model)

    async def close(self) -> None:
        """Closes the connection, and cancels what is still running; later calls raise CallCancelledError.

        Calling it again does nothing. RuntimeError in another event loop than that of the calls, while that one runs.
        """
        connection = self._connection
        if connection is None or connection.loop.is_closed():  # which has ended its calls
            self._is_closed = True
        else:
            _check_loop(connection.loop)
            self._is_closed = True
            await connection.channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _connect(self) -> _Connection:
        """The connection, which is opened with the first call: before, the loop of the calls is not known."""
        if self._is_closed:
            raise client_closed()
        if self._connection is None:
            loop = _running_loop()
            channel = open_aio_channel(self._address, self._credentials, self._options)
            self._connection = _Connection(
                loop,
                channel,
                generation_pb2_grpc.GenerationServiceStub(channel),
                model_pb2_grpc.ModelServiceStub(channel),
                tokenization_pb2_grpc.TokenizationServiceStub(channel),
            )
        _check_loop(self._connection.loop)
        return self._connection


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("an AsyncClient makes calls in a running event loop only; Client needs none") from None


def _check_loop(loop: asyncio.AbstractEventLoop) -> None:
    if loop is not _running_loop():
        raise RuntimeError(
            "this AsyncClient belongs to another event loop, that of its first call: make one client for each loop"
            " (asyncio.run starts a new loop each time)"
        )


@contextmanager
def _mapped_errors() -> Iterator[None]:
    """`mapped_errors`, and our own error where gRPC raises asyncio's because this side has cancelled the call."""
    try:
        with mapped_errors():
            yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise cancelled_locally() from None
