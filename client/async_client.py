"""The client for asyncio: only the input and output; everything else is shared with `sync_client`."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, Unpack

import grpc
import grpc.aio

from textserve.v1 import generation_pb2, generation_pb2_grpc, model_pb2_grpc

from .channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, ChannelOptions, Metadata, call_metadata, open_aio_channel
from .convert import event_from, generation_from, models_from
from .events import Delta, Event, Started
from .options import GenerateOptions, Priority, seconds
from .request import generate_request, models_request
from .status import cancelled_locally, mapped_errors
from .transcript import Transcript
from .values import Generation, Model, Prompt


class AsyncStream(AsyncIterator[Delta]):
    """The deltas of one generation, as they are made; `Stream` for asyncio.

    Use it with `async with`: entering waits until the server has admitted the request, leaving it in any way cancels
    what is still running. Every error of the tree in `errors` may be raised while entering or iterating; the deltas
    delivered before it stand. Several candidates are told apart by their deltas' `candidate_index`, as with `Stream`.
    """

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.StreamGenerateResponse]
    ) -> None:
        self._call = call
        self._messages = aiter(call)
        self._transcript = Transcript()

    @property
    def started(self) -> Started:
        """Model, seed and prompt token count. RuntimeError if the stream was neither entered nor read from."""
        return self._transcript.started

    @property
    def held_token_ids(self) -> Mapping[int, tuple[int, ...]]:
        """The token ids that have come so far, by candidate index, if `token_ids` was asked for.

        After a lost stream they are what `resume_from` takes, with `started.seed` as the seed: the same request then
        goes on behind them.
        """
        return self._transcript.held_token_ids

    @property
    def result(self) -> Generation:
        """The whole answer. RuntimeError before the stream has been read to its end."""
        return self._transcript.result

    async def close(self) -> None:
        """Cancels what is still running."""
        self._call.cancel()

    async def __anext__(self) -> Delta:
        while (delta := self._transcript.receive(await self._read())) is None:
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
            self._transcript.receive(await self._read())

    async def _read(self) -> Event | None:
        with _mapped_errors():
            message = await anext(self._messages, None)
        if message is None:
            self._transcript.end()
            raise StopAsyncIteration
        return event_from(message)


class AsyncClient:
    """A connection to a textserve gateway, for asyncio. Create and use it inside one running event loop.

    Takes what `Client` takes.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        tenant: str | None = None,
        priority: Priority | None = None,
        options: ChannelOptions | None = None,
    ) -> None:
        self._timeout = seconds(timeout)
        self._metadata = call_metadata(metadata, tenant, priority)
        self._channel = open_aio_channel(address, credentials, options)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._model = model_pb2_grpc.ModelServiceStub(self._channel)

    async def generate(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Generates a continuation of the prompt, and returns it whole; see `Client.generate`."""
        request = generate_request(prompt, **options)
        with _mapped_errors():
            response = await self._generation.Generate(request, timeout=self._seconds(timeout), metadata=self._metadata)
        return generation_from(response)

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncStream:
        """Generates a continuation of the prompt, and returns it piece by piece; see `Client.stream`."""
        request = generate_request(prompt, **options)
        return AsyncStream(
            self._generation.StreamGenerate(request, timeout=self._seconds(timeout), metadata=self._metadata)
        )

    async def models(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC keeps it, and tells it to the server
    ) -> list[Model]:
        """The models that can be named in `generate`. Raises TextserveError."""
        request = models_request()
        with _mapped_errors():
            response = await self._model.ListModels(request, timeout=self._seconds(timeout), metadata=self._metadata)
        return models_from(response)

    async def close(self) -> None:
        """Closes the connection, and cancels what is still running. Calling it again does nothing."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else seconds(timeout)


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
