"""The blocking client: only the input and output; everything else is shared with `async_client`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, Unpack

import grpc

from textserve.v1 import generation_pb2, generation_pb2_grpc, model_pb2_grpc

from ._channel import (
    DEFAULT_ADDRESS,
    DEFAULT_TIMEOUT,
    ChannelOptions,
    Metadata,
    call_metadata,
    checked_address,
    open_channel,
)
from ._transcript import Transcript
from ._wire.convert import event_from, generation_from, models_from
from ._wire.request import generate_request, models_request
from .errors._status import client_closed, mapped_errors
from .types.events import Delta, Event, Started
from .types.options import GenerateOptions, Priority, seconds
from .types.values import Generation, Model, Prompt


class _Call(Protocol):
    """What is needed of gRPC's call object."""

    def __iter__(self) -> Iterator[generation_pb2.StreamGenerateResponse]: ...
    def cancel(self) -> object: ...


class Stream(Iterator[Delta]):
    """The deltas of one generation, as they are made.

    Use it as a context manager: entering waits until the first token is there, leaving it in any way cancels
    what is still running. A stream that is not entered is cancelled when nothing refers to it any more, as after
    `for delta in client.stream(...): break`. Every error of the tree in `errors` may be raised while entering or
    iterating; the deltas delivered before it stand.

    The deltas of several candidates come mixed; each says whose it is, and `result` has them put together:

        texts = [""] * 3
        with client.stream(prompt, temperature=1, num_return_sequences=3) as stream:
            for delta in stream:
                texts[delta.candidate_index] += delta.text
        assert texts == [candidate.text for candidate in stream.result.candidates]
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._messages = iter(call)
        self._transcript = Transcript()

    @property
    def started(self) -> Started:
        """Model, seed and prompt token count. RuntimeError if the stream was neither entered nor read from."""
        return self._transcript.started

    @property
    def held_token_ids(self) -> Mapping[int, tuple[int, ...]]:
        """The token ids that have come so far, by candidate index, if `token_ids` was asked for.

        There are none of a candidate of which the prompt alone has come, as `echo` asks for it. After a lost
        stream this is what `resume_from` takes, with `started.seed` as the seed: the request then goes on behind it.
        """
        return self._transcript.held_token_ids

    @property
    def result(self) -> Generation:
        """The whole answer. RuntimeError before the stream has been read to its end."""
        return self._transcript.result

    def close(self) -> None:
        """Cancels what is still running."""
        self._call.cancel()

    def __repr__(self) -> str:
        return f"<Stream {self._transcript}>"

    def __next__(self) -> Delta:
        while (delta := self._transcript.receive(self._read())) is None:
            pass
        return delta

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        while not self._transcript.has_started:
            self._transcript.receive(self._read())

    def _read(self) -> Event | None:
        with mapped_errors():
            message = next(self._messages, None)
        if message is None:
            self._transcript.end()
            raise StopIteration
        return event_from(message)


class Client:
    """A connection to a textserve gateway, for blocking code. Threads may share it.

    Args:
        address: "host:port", "[::1]:port" or "unix:/path", or another target of gRPC's with a port. With `credentials`
            the port may be missing: it is 443 then. What lies on this machine's loopback is reached without a proxy.
        timeout: seconds for a whole call that names none, its stream included; above 0, at most 1e9.
        credentials: for TLS; plaintext without.
        metadata: sent with every call.
        tenant: whose calls these are, in printable ASCII; a gateway heeds it if it is told to trust that.
        priority: how urgent they are; heeded in the same way.
        options: gRPC channel arguments, over those of `channel.DEFAULT_OPTIONS`.
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
        self._address = checked_address(address, credentials)
        self._is_closed = False
        self._channel = open_channel(address, credentials, options)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._model = model_pb2_grpc.ModelServiceStub(self._channel)

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Generates a continuation of the prompt, and returns it whole.

        Args:
            prompt: plain text, chat messages (oldest first; a mapping with role and content is one), or token ids.
            timeout: seconds for the call; None is the client's own.
            **options: how to generate, as `GenerateOptions` explains:
                request: model, truncate_prompt, request_id, resume_from;
                length and end: max_new_tokens, min_new_tokens, stop, stop_token_ids, include_stop_sequence, ignore_eos,
                exponential_decay_length_penalty, max_time, partial_on_deadline;
                sampling: do_sample, seed, temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff;
                repetition: repetition_penalty, presence_penalty, frequency_penalty, no_repeat_ngram_size;
                tokens: logit_bias, bad_words_ids, allowed_token_ids, suppress_tokens, begin_suppress_tokens,
                forced_bos_token_id, forced_eos_token_id;
                candidates: num_return_sequences, best_of, num_beams, length_penalty, early_stopping;
                answer: echo, token_ids, skip_special_tokens, logprobs, top_logprobs, prompt_logprobs.

        Raises:
            TextserveError: one of its subclasses, as drawn in `errors`.
            TypeError, ValueError: the arguments cannot be put into a request.
        """
        request, limit = generate_request(prompt, **options), self._seconds(timeout)
        with self._errors():
            response = self._generation.Generate(request, timeout=limit, metadata=self._metadata)
        return generation_from(response)

    def stream(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]) -> Stream:
        """Generates a continuation of the prompt, and returns it piece by piece.

        Takes what `generate` takes, but the server refuses beams, and a best_of above num_return_sequences: what they
        return is known at the end only. The request is sent at once; the stream raises what `generate` raises.
        """
        request, limit = generate_request(prompt, **options), self._seconds(timeout)
        with self._errors():
            return Stream(self._generation.StreamGenerate(request, timeout=limit, metadata=self._metadata))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that can be named in `generate`. Raises TextserveError."""
        request, limit = models_request(), self._seconds(timeout)
        with self._errors():
            response = self._model.ListModels(request, timeout=limit, metadata=self._metadata)
        return models_from(response)

    def close(self) -> None:
        """Closes the connection, and cancels what is still running; later calls raise CallCancelledError.

        Calling it again does nothing.
        """
        self._is_closed = True
        self._channel.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r}, timeout={self._timeout:g}{', closed' * self._is_closed})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """`mapped_errors`, and our own error where gRPC raises ValueError because the client is closed."""
        try:
            with mapped_errors():
                yield
        except ValueError as error:
            if not self._is_closed:
                raise
            raise client_closed() from error

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else seconds(timeout)
