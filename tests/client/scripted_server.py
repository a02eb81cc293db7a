"""A gateway that tells what a test has scripted, and remembers what it was asked."""

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import Message
from google.rpc import status_pb2  # type: ignore[import-untyped]

from textserve.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tokenization_pb2,
    tokenization_pb2_grpc,
)

Request = generation_pb2.GenerateRequest
Response = generation_pb2.GenerateResponse
Event = generation_pb2.StreamGenerateResponse
Answer = Callable[[Request, grpc.ServicerContext], Response]
Script = Callable[[Request, grpc.ServicerContext], Iterator[Event]]


def delta(text: str) -> Event:
    return Event(delta=generation_pb2.StreamDelta(text=text))


def answering(response: Response) -> Answer:
    """Gives this answer."""
    return lambda request, context: response


def telling(*events: Event) -> Script:
    """Tells these events, and ends."""
    return lambda request, context: iter(events)


def failing(
    code: grpc.StatusCode, message: str = "", details: tuple[Message, ...] = (), *, raw_details: bytes = b""
) -> Callable[[Request, grpc.ServicerContext], NoReturn]:
    """Fails with this status, and tells gRPC not to retry."""
    status = status_pb2.Status(code=code.value[0], message=message, details=[_packed(each) for each in details])
    trailers = (
        ("grpc-status-details-bin", raw_details or status.SerializeToString()),
        ("grpc-retry-pushback-ms", "-1"),
    )

    def fail(request: Request, context: grpc.ServicerContext) -> NoReturn:
        context.set_trailing_metadata(trailers)
        context.abort(code, message)

    return fail


def hanging(left: threading.Event, *events: Event) -> Script:
    """Tells these events, then nothing more until the caller has left, which sets the event."""

    def hang(request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        # Here and not in the generator, which nobody resumes once the caller has left.
        context.add_callback(left.set)
        return _events_and_silence(events, left)

    return hang


def _events_and_silence(events: tuple[Event, ...], left: threading.Event) -> Iterator[Event]:
    yield from events
    left.wait()


def never_answering(left: threading.Event) -> Answer:
    """Gives no answer until the caller has left, which sets the event."""

    def hang(request: Request, context: grpc.ServicerContext) -> Response:
        context.add_callback(left.set)
        left.wait()
        return Response()

    return hang


def _packed(message: Message) -> PackedAny:
    packed = PackedAny()
    packed.Pack(message)
    return packed


SERVER_REQUEST_ID = "00c0ffee00c0ffee"
STARTED = Event(
    started=generation_pb2.StreamStarted(
        model="tutor", seed=7, prompt_token_count=3, server_request_id=SERVER_REQUEST_ID
    )
)
RECEIPT = generation_pb2.Receipt(
    model="tutor",
    fingerprint="f00d",
    seed=7,
    generation_config=generation_pb2.GenerationConfig(max_new_tokens=256, temperature=0),
    worker="worker-0",
    attempt_count=1,
    server_request_id=SERVER_REQUEST_ID,
)
USAGE = generation_pb2.Usage(prompt_token_count=3, output_token_count=2)
FINISHED = Event(
    finished=generation_pb2.StreamFinished(
        finish_reason=generation_pb2.FINISH_REASON_END_OF_SEQUENCE, usage=USAGE, receipt=RECEIPT, seed=7
    )
)
ANSWER = Response(
    candidates=[
        generation_pb2.Candidate(text=", green", finish_reason=generation_pb2.FINISH_REASON_END_OF_SEQUENCE, seed=7),
    ],
    usage=USAGE,
    receipt=RECEIPT,
)


class ScriptedServer(
    generation_pb2_grpc.GenerationServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
    tokenization_pb2_grpc.TokenizationServiceServicer,
):
    """What it does is in `answer`, `script` and `models`; a test replaces them."""

    def __init__(self) -> None:
        self.address = ""
        self.answer: Answer = answering(ANSWER)
        self.script: Script = telling(STARTED, delta(", "), delta("green"), FINISHED)
        self.models = model_pb2.ListModelsResponse(models=[model_pb2.Model(name="tutor", context_length=512)])
        self.page_size = 0
        """Models on a page; 0: all."""
        self.calls: list[str] = []
        self.requests: list[Request] = []
        self.metadata: list[dict[str, str | bytes]] = []

    def Generate(self, request: Request, context: grpc.ServicerContext) -> Response:  # noqa: N802 - the RPC's name
        self._note("GenerationService/Generate", context)
        self.requests.append(request)
        return self.answer(request, context)

    def StreamGenerate(self, request: Request, context: grpc.ServicerContext) -> Iterator[Event]:  # noqa: N802
        self._note("GenerationService/StreamGenerate", context)
        self.requests.append(request)
        return self.script(request, context)

    def EstimateGenerate(  # noqa: N802
        self, request: generation_pb2.EstimateGenerateRequest, context: grpc.ServicerContext
    ) -> generation_pb2.EstimateGenerateResponse:
        self._note("GenerationService/EstimateGenerate", context)
        asked = request.request
        answer = generation_pb2.EstimateGenerateResponse(
            prompt_token_count=len(asked.text), max_new_tokens=asked.generation_config.max_new_tokens
        )
        answer.queue.FromMilliseconds(1500)
        answer.total.FromSeconds(0)
        return answer

    def ListModels(  # noqa: N802
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        self._note("ModelService/ListModels", context)
        begin = int(request.page_token or 0)
        end = begin + (self.page_size or len(self.models.models))
        token = str(end) if end < len(self.models.models) else ""
        return model_pb2.ListModelsResponse(models=self.models.models[begin:end], next_page_token=token)

    def GetModel(  # noqa: N802
        self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetModelResponse:
        self._note("ModelService/GetModel", context)
        model = next((each for each in self.models.models if each.name == request.name), None)
        if model is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return model_pb2.GetModelResponse(model=model)

    def Tokenize(  # noqa: N802
        self, request: tokenization_pb2.TokenizeRequest, context: grpc.ServicerContext
    ) -> tokenization_pb2.TokenizeResponse:
        """A token for each character, which is its code point."""
        self._note("TokenizationService/Tokenize", context)
        text = request.text or "".join(each.text for each in request.chat.messages)
        return tokenization_pb2.TokenizeResponse(
            token_count=len(text),
            token_ids=map(ord, text),
            pieces=[tokenization_pb2.TokenPiece(piece=each.encode(), end=1) for each in text * request.include_pieces],
            rendered_prompt=text * request.include_rendered_prompt,
        )

    def Detokenize(  # noqa: N802
        self, request: tokenization_pb2.DetokenizeRequest, context: grpc.ServicerContext
    ) -> tokenization_pb2.DetokenizeResponse:
        self._note("TokenizationService/Detokenize", context)
        text = "".join(map(chr, request.token_ids))
        return tokenization_pb2.DetokenizeResponse(text=text.strip() if request.skip_special_tokens else text)

    def _note(self, rpc: str, context: grpc.ServicerContext) -> None:
        self.calls.append(rpc)
        self.metadata.append(dict(context.invocation_metadata()))


@contextmanager
def serving(server: ScriptedServer, host: str = "127.0.0.1") -> Iterator[ScriptedServer]:
    """Serves on a free port of this machine while it is entered."""
    transport = grpc.server(
        futures.ThreadPoolExecutor(max_workers=8),
        options=[("grpc.http2.min_ping_interval_without_data_ms", 100), ("grpc.so_reuseport", 0)],
    )
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(server, transport)
    model_pb2_grpc.add_ModelServiceServicer_to_server(server, transport)
    tokenization_pb2_grpc.add_TokenizationServiceServicer_to_server(server, transport)
    server.address = f"{host}:{transport.add_insecure_port(f'{host}:0')}"
    transport.start()
    try:
        yield server
    finally:
        transport.stop(grace=None).wait()
