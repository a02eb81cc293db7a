"""The blocking client: only input and output, as in `async_client`; what they share is in `_base`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, Unpack

from textserve.v1 import generation_pb2, generation_pb2_grpc, model_pb2_grpc, tokenization_pb2_grpc

from ._base import BaseClient, BaseStream
from ._channel import open_channel
from ._wire.convert import estimate_from, generation_from, model_from, models_from, tokenization_from
from ._wire.request import (
    detokenize_request,
    estimate_request,
    generate_request,
    model_request,
    models_request,
    tokenize_request,
)
from .errors._status import client_closed, mapped_errors
from .types.events import Delta
from .types.options import GenerateOptions, TokenizeOptions
from .types.values import Estimate, Generation, Model, Prompt, Tokenization


class _Call(Protocol):
    """What is needed of gRPC's call object."""

    def __iter__(self) -> Iterator[generation_pb2.StreamGenerateResponse]: ...
    def cancel(self) -> object: ...


class Stream(BaseStream, Iterator[Delta]):
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
        super().__init__()
        self._call = call
        self._messages = iter(call)

    def close(self) -> None:
        """Cancels what is still running."""
        self._call.cancel()

    def __next__(self) -> Delta:
        while (delta := self._read()) is None:
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
            self._read()

    def _read(self) -> Delta | None:
        with mapped_errors():
            message = next(self._messages, None)
        if message is None:
            self._transcript.end()
            raise StopIteration
        return self._take(message)


class Client(BaseClient):
    """A connection to a textserve gateway, for blocking code. Threads may share it.

    Args:
        address: "host:port", "[::1]:port" or "unix:/path", or another target of gRPC's with a port. With `credentials`
            the port may be missing: it is 443 then. What lies on this machine's loopback is reached without a proxy.
        timeout: seconds for a whole call that names none, its stream included; above 0, at most 1e9.
        credentials: for TLS; plaintext without.
        metadata: sent with every call.
        tenant: whose calls these are, in printable ASCII; a gateway heeds it if it is told to trust that.
        priority: how urgent they are; heeded in the same way.
        options: gRPC channel arguments, over those of `_channel.DEFAULT_OPTIONS`.
    """

    def _open(self) -> None:
        self._channel = open_channel(self._address, self._credentials, self._options)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._model = model_pb2_grpc.ModelServiceStub(self._channel)
        self._tokenization = tokenization_pb2_grpc.TokenizationServiceStub(self._channel)

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Generates a continuation of the prompt, and returns it whole.

        Args:
            prompt: plain text, chat messages (oldest first; a mapping with role and content is one), or token ids.
            timeout: seconds for the call; None is the client's own.
            **options: how to generate, as `GenerateOptions` explains:
                request: model, truncate_prompt, request_id, resume_from, ignored_defaults;
                chat: tools, tool_choice, template_arguments, continue_last_message;
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
        request, terms = generate_request(prompt, **options), self._terms(timeout)
        with self._errors():
            response = self._generation.Generate(request, **terms)
        return generation_from(response)

    def stream(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]) -> Stream:
        """Generates a continuation of the prompt, and returns it piece by piece.

        Takes what `generate` takes, but the server refuses beams, and a best_of above num_return_sequences: what they
        return is known at the end only. The request is sent at once; the stream raises what `generate` raises.
        """
        request, terms = generate_request(prompt, **options), self._terms(timeout)
        with self._errors():
            return Stream(self._generation.StreamGenerate(request, **terms))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that can be named in `generate`. Raises TextserveError."""
        request, terms = models_request(), self._terms(timeout)
        models: list[Model] = []
        while True:
            with self._errors():
                response = self._model.ListModels(request, **terms)
            models += models_from(response)
            if not response.next_page_token:
                return models
            request = models_request(response.next_page_token)

    def estimate(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]) -> Estimate:
        """What `generate` with the same arguments would be, and how long it would take now. Nothing is generated.

        Raises what `generate` raises for arguments that it would refuse.
        """
        request, terms = estimate_request(prompt, **options), self._terms(timeout)
        with self._errors():
            response = self._generation.EstimateGenerate(request, **terms)
        return estimate_from(response)

    def tokenize(
        self,
        prompt: Prompt,
        *,
        pieces: bool = False,
        rendered_prompt: bool = False,
        timeout: float | None = None,
        **options: Unpack[TokenizeOptions],
    ) -> Tokenization:
        """The tokens that `generate` would make of a prompt; `len` of it counts them. No worker is asked.

        Args:
            prompt: plain text or chat messages.
            pieces: whether to tell what each token stands for: its bytes, its place in the text. Up to 65,536 tokens.
            rendered_prompt: whether to tell the text that was tokenized: of a chat, what the template made of it.
            timeout: seconds for the call; None is the client's own.
            **options: model, tools, tool_choice, template_arguments, continue_last_message, as in `generate`.

        Raises what `generate` raises.
        """
        request = tokenize_request(prompt, pieces=pieces, rendered_prompt=rendered_prompt, **options)
        terms = self._terms(timeout)
        with self._errors():
            response = self._tokenization.Tokenize(request, **terms)
        return tokenization_from(response)

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        model: str = "",
        timeout: float | None = None,
    ) -> str:
        """The text of tokens: at most 1,048,576 of the vocabulary. Raises TextserveError."""
        request = detokenize_request(token_ids, skip_special_tokens=skip_special_tokens, model=model)
        terms = self._terms(timeout)
        with self._errors():
            return self._tokenization.Detokenize(request, **terms).text

    def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """A model by its name, or the one that is served. Raises NotFoundError, or another TextserveError."""
        request, terms = model_request(name), self._terms(timeout)
        with self._errors():
            response = self._model.GetModel(request, **terms)
        return model_from(response.model)

    def close(self) -> None:
        """Closes the connection, and cancels what is still running; later calls raise CallCancelledError.

        Calling it again does nothing.
        """
        self._is_closed = True
        self._channel.close()

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
