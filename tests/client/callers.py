"""Both clients behind one interface, so that each property is written once and holds for both."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack

from client import (
    AsyncClient,
    Client,
    Delta,
    Estimate,
    GenerateOptions,
    Generation,
    Model,
    Priority,
    Prompt,
    Started,
    Tokenization,
)


class CallOptions(GenerateOptions, total=False):
    timeout: float | None


class ClientOptions(TypedDict, total=False):
    timeout: float
    metadata: list[tuple[str, str | bytes]]
    options: dict[str, int | str]
    tenant: str
    priority: Priority


@dataclass(frozen=True)
class Reading:
    """A stream that was read to its end."""

    started: Started
    deltas: list[Delta]
    result: Generation


class Caller(Protocol):
    """A client that blocks."""

    def generate(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Generation: ...
    def models(self) -> list[Model]: ...
    def model(self, name: str) -> Model: ...
    def estimate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Estimate: ...
    def tokenize(self, prompt: Prompt, **options: Any) -> Tokenization: ...
    def detokenize(self, token_ids: Sequence[int], **options: Any) -> str: ...
    def read(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Reading:
        """Reads a stream to its end."""
        ...

    def leave(self, prompt: Prompt, each: Callable[[Delta], bool]) -> None:
        """Reads a stream while `each` of its deltas gives true, and leaves it."""
        ...

    def close(self) -> None: ...


class BlockingCaller:
    def __init__(self, address: str, **options: Unpack[ClientOptions]) -> None:
        self.client = Client(address, **options)

    def generate(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Generation:
        return self.client.generate(prompt, **options)

    def models(self) -> list[Model]:
        return self.client.models()

    def model(self, name: str) -> Model:
        return self.client.model(name)

    def estimate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Estimate:
        return self.client.estimate(prompt, **options)

    def tokenize(self, prompt: Prompt, **options: Any) -> Tokenization:
        return self.client.tokenize(prompt, **options)

    def detokenize(self, token_ids: Sequence[int], **options: Any) -> str:
        return self.client.detokenize(token_ids, **options)

    def read(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Reading:
        with self.client.stream(prompt, **options) as stream:
            started = stream.started
            return Reading(started, list(stream), stream.result)

    def leave(self, prompt: Prompt, each: Callable[[Delta], bool]) -> None:
        # Kept, so that nothing but leaving it can cancel it.
        self.left = self.client.stream(prompt)
        with self.left as stream:
            for delta in stream:
                if not each(delta):
                    break

    def close(self) -> None:
        self.client.close()


class AsyncCaller:
    def __init__(self, address: str, **options: Unpack[ClientOptions]) -> None:
        self._runner = asyncio.Runner()
        try:
            self.client = self._runner.run(self._connect(address, options))
        except ValueError:
            self._runner.close()
            raise

    def generate(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Generation:
        return self._runner.run(self.client.generate(prompt, **options))

    def models(self) -> list[Model]:
        return self._runner.run(self.client.models())

    def model(self, name: str) -> Model:
        return self._runner.run(self.client.model(name))

    def estimate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Estimate:
        return self._runner.run(self.client.estimate(prompt, **options))

    def tokenize(self, prompt: Prompt, **options: Any) -> Tokenization:
        return self._runner.run(self.client.tokenize(prompt, **options))

    def detokenize(self, token_ids: Sequence[int], **options: Any) -> str:
        return self._runner.run(self.client.detokenize(token_ids, **options))

    def read(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Reading:
        return self._runner.run(self._read(prompt, options))

    def leave(self, prompt: Prompt, each: Callable[[Delta], bool]) -> None:
        self._runner.run(self._leave(prompt, each))

    def close(self) -> None:
        self._runner.run(self.client.close())
        self._runner.close()

    async def _connect(self, address: str, options: ClientOptions) -> AsyncClient:
        return AsyncClient(address, **options)

    async def _read(self, prompt: Prompt, options: CallOptions) -> Reading:
        async with self.client.stream(prompt, **options) as stream:
            started = stream.started
            return Reading(started, [delta async for delta in stream], stream.result)

    async def _leave(self, prompt: Prompt, each: Callable[[Delta], bool]) -> None:
        self.left = self.client.stream(prompt)
        async with self.left as stream:
            async for delta in stream:
                if not each(delta):
                    break
