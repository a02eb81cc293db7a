"""The services of callers: GenerationService, which answers as a whole or as a stream, and ModelService."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import Any

from grpc import aio

from textserve.v1 import generation_pb2 as pb
from textserve.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc

from ..dispatch.dispatcher import Dispatcher
from ..domain.errors import Violation, deadline_exceeded, invalid_request, out_of_range, slow_reader
from ..domain.generation import Generation
from ..domain.request import Call
from ..domain.sequence import Status
from ..domain.served_model import Models, ServedModel
from ..domain.tenancy import Caller, TenantPolicy, read_caller
from ..request.executor import INLINE_CHARS, Executors
from ..request.preprocess import Arrival, Preprocessor
from ..scheduling.admission_control import AdmissionControl
from . import codec
from .codec import list_violations, read_request, work_chars, write_model
from .idempotency import Answer, Deduplication, Response
from .interceptors import current_request_id
from .stream_writer import MAX_PENDING_CHARS, StreamWriter, write_interval_s

logger = logging.getLogger(__name__)
Context = aio.ServicerContext[Any, Any]

TRAVEL_S = 0.05
"""The ways of a call and of its cancel may differ by so much. Who cancels so shortly before its deadline is late."""

PHASES = {Status.QUEUED: "queue", Status.PREFILLING: "prefill", Status.DECODING: "decode"}


class Calls:
    """Tells what is known of a call when it comes.

    Args:
        tenants: What the callers' tenants are entitled to.
        request_timeout_s: The server's own limit on the time of a call.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, *, tenants: TenantPolicy, request_timeout_s: float, clock: Callable[[], float]) -> None:
        self._tenants = tenants
        self._request_timeout_s = request_timeout_s
        self._clock = clock

    def call(self, context: Context) -> Call:
        """Raises ServiceError for a priority that there is not."""
        now = self._clock()
        caller = Caller()
        if self._tenants.trusted:
            metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            caller = read_caller(metadata, policy=self._tenants)
        remaining_s = context.time_remaining()
        limit_s = self._request_timeout_s if remaining_s is None else min(remaining_s, self._request_timeout_s)
        return Call(
            caller,
            arrived_at=now,
            deadline_at=now + limit_s,
            server_request_id=current_request_id(),
            timeout_s=remaining_s,
        )


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Runs each call as one generation.

    Args:
        preprocessor: Makes generations of requests.
        executors: The threads that large answers are made on.
        dispatcher: Runs them.
        admission_control: Refuses what would wait in vain, here before anything is done for it.
        deduplication: Lets calls of one name generate once.
        calls: What is known of each call.
        request_timeout_s: The server's own limit on the time of a call.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        executors: Executors,
        dispatcher: Dispatcher,
        admission_control: AdmissionControl,
        deduplication: Deduplication,
        *,
        calls: Calls,
        request_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._preprocessor = preprocessor
        self._executors = executors
        self._dispatcher = dispatcher
        self._admission_control = admission_control
        self._deduplication = deduplication
        self._calls = calls
        self._request_timeout_s = request_timeout_s
        self._clock = clock

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> Response:  # type: ignore[override]  # noqa: N802
        """Answers once everything has been generated; with the message's bytes if it is large."""
        call = self._calls.call(context)
        return await self._deduplication.run(call, request, lambda: self._generate(request, call, context))

    async def _generate(self, request: pb.GenerateRequest, call: Call, context: Context) -> Answer:
        finished = asyncio.Event()
        async with self._running(request, call, context, is_stream=False) as generation:
            generation.on_change = lambda: finished.set() if generation.finished else None
            self._dispatcher.submit(generation)
            await finished.wait()
            if generation.error is not None:
                raise generation.error
            # Also where what the deadline cut is not among the candidates that are returned: it was not ranked whole.
            is_cut = any(sequence.status is Status.DEADLINE for sequence in generation.sequences)
            chars, now = generation.answer_chars, self._clock()
            if chars <= INLINE_CHARS:
                return Answer(codec.response(generation, now), is_cut)
            # It may have millions of numbers; running streams go on meanwhile.
            work = partial(codec.response_bytes, generation, now)
            return Answer(await self._executors.answer(work, call, chars), is_cut)

    # Writes by itself instead of yielding: whoever awaits a write is told when the caller leaves.
    async def StreamGenerate(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Answers as it is generated."""
        async with self._running(request, self._calls.call(context), context, is_stream=True) as generation:
            writer = self._writer(generation)
            self._dispatcher.submit(generation)
            # Any message commits the call: until its first row has begun, its caller's library may send it again.
            await writer.changed()
            if generation.error is not None:
                raise generation.error
            await context.write(codec.started(generation))
            for message in codec.echoes(generation):
                await context.write(message)
            while True:
                ended = generation.finished
                for message in codec.news(generation, self._clock()):
                    await context.write(message)
                if ended:
                    break
                await writer.changed()
            if generation.error is not None:
                raise generation.error

    async def EstimateGenerate(  # noqa: N802 - gRPC's name
        self, request: pb.EstimateGenerateRequest, context: Context
    ) -> pb.EstimateGenerateResponse:
        """Says what a request would be, and how long it would take."""
        if too_long := list(list_violations(request)):
            raise invalid_request(too_long)
        arrival = _within_limits(request.request, is_stream=False)
        generation = await self._preprocessor.prepare(arrival, self._calls.call(context))
        return codec.estimate(generation, self._admission_control.estimate(generation, self._clock()))

    def _writer(self, generation: Generation) -> StreamWriter:
        return StreamWriter(
            generation,
            interval_s=lambda: write_interval_s(self._dispatcher.running_count),
            on_overflow=lambda: self._dispatcher.fail(generation, slow_reader(MAX_PENDING_CHARS)),
        )

    @asynccontextmanager
    async def _running(
        self, message: pb.GenerateRequest, call: Call, context: Context, *, is_stream: bool
    ) -> AsyncIterator[Generation]:
        """Admits a request, and lets go of it however the call ends."""
        generation: Generation | None = None
        try:
            async with asyncio.timeout(self._request_timeout_s):
                with self._dispatcher.preparing(call.caller):
                    generation = await self._preprocessor.prepare(_arrival(message, is_stream=is_stream), call)
                ends_early = message.partial_on_deadline
                with self._limit_time(generation), self._end_in_time(generation, call, ends_early=ends_early):
                    yield generation
        except TimeoutError:
            phase = PHASES.get(generation.status, "delivery") if generation else "admission"
            if generation is not None:
                generation.finish(Status.DEADLINE)
            raise deadline_exceeded(self._request_timeout_s, phase) from None
        finally:
            if generation is not None:
                self._release(generation, call, context)

    def _limit_time(self, generation: Generation) -> AbstractContextManager[None]:
        budget_s = generation.config.max_time
        remaining_s = None if budget_s is None else generation.arrived_at + budget_s - self._clock()
        return time_limit(remaining_s, lambda: self._end(generation, Status.TIME_LIMIT))

    def _end_in_time(self, generation: Generation, call: Call, *, ends_early: bool) -> AbstractContextManager[None]:
        if not ends_early:
            return nullcontext()
        limit_s = call.deadline_at - call.arrived_at
        is_callers = call.deadline_at < call.arrived_at + self._request_timeout_s
        early_s = self._admission_control.ending_s + (timeout_rounding_s(limit_s) if is_callers else 0.0)
        remaining_s = call.deadline_at - early_s - self._clock()
        return time_limit(remaining_s, lambda: self._end(generation, Status.DEADLINE))

    def _end(self, generation: Generation, status: Status) -> None:
        if not generation.finished:
            self._dispatcher.finish(generation, status)

    def _release(self, generation: Generation, call: Call, context: Context) -> None:
        # After its own cancel or deadline the caller hears nothing of ours: only the log has the phase.
        phase = PHASES.get(generation.status)
        left = why_left(context.time_remaining(), call.timeout_s)
        self._dispatcher.detach(generation, left)
        self._admission_control.observe_answer(generation, self._clock())
        logger.info(
            "request %s: %s%s; %d prompt tokens, %d output tokens, %s",
            generation.server_request_id,
            generation.error.reason if generation.error else generation.status.name,
            f" in {phase}" if phase else "",
            len(generation.prompt_ids),
            generation.output_token_count,
            generation.last_worker or "no worker",
        )


def why_left(remaining_s: float | None, timeout_s: float | None) -> Status:
    """Why a caller left, DEADLINE or CANCELLED, with so much left of its timeout, as the server knows both.

    A caller that holds to its deadline cancels like any other, and before the server's own has passed: gRPC rounds what
    it sends up, and the server counts from when it came.
    """
    if remaining_s is None or timeout_s is None:
        return Status.CANCELLED
    is_due = remaining_s <= timeout_rounding_s(timeout_s) + TRAVEL_S
    return Status.DEADLINE if is_due else Status.CANCELLED


def _arrival(message: pb.GenerateRequest, *, is_stream: bool) -> Arrival:
    if too_long := list(list_violations(message)):
        raise invalid_request(too_long)
    return _within_limits(message, is_stream=is_stream)


def _within_limits(message: pb.GenerateRequest, *, is_stream: bool) -> Arrival:
    """A request whose lists have been looked at."""
    return Arrival(message.model, lambda: read_request(message, is_stream=is_stream), work_chars(message))


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Describes the model of the pool, once a worker has told it."""

    def __init__(self, models: Models, dispatcher: Dispatcher) -> None:
        self._models = models
        self._dispatcher = dispatcher

    async def ListModels(  # noqa: N802 - gRPC's name
        self,
        request: model_pb2.ListModelsRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> model_pb2.ListModelsResponse:
        """Lists what is served, on one page; empty until a worker has been ready."""
        if violations := list(_page_violations(request)):
            raise invalid_request(violations)
        model = self._models.current
        return model_pb2.ListModelsResponse(models=[self._written(model)] if model else [])

    async def GetModel(  # noqa: N802 - gRPC's name
        self,
        request: model_pb2.GetModelRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> model_pb2.GetModelResponse:
        """Describes one model."""
        return model_pb2.GetModelResponse(model=self._written(self._models.named(request.name)))

    def _written(self, model: ServedModel) -> model_pb2.Model:
        return write_model(model, self._dispatcher.worker_count)


def _page_violations(request: model_pb2.ListModelsRequest) -> Iterator[Violation]:
    if request.page_size < 0:
        yield out_of_range("page_size", f"must be at least 0, is {request.page_size}")
    if request.page_token:
        yield Violation("page_token", "UNKNOWN_PAGE", "must be empty, or the next_page_token of an answer")


@contextmanager
def time_limit(remaining_s: float | None, on_over: Callable[[], None]) -> Iterator[None]:
    """Calls `on_over` once, from the event loop, if the block takes longer than `remaining_s`; None is no limit."""
    if remaining_s is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(remaining_s, on_over)
    try:
        yield
    finally:
        timer.cancel()


def timeout_rounding_s(timeout_s: float) -> float:
    """By how much a timeout that has come may exceed the one that its caller holds to, in seconds.

    gRPC's C core sends three digits, rounded up, and no less than milliseconds: of 10.01 s it makes 10.1 s.
    """
    return max(0.001, 10.0 ** (math.ceil(math.log10(timeout_s)) - 3)) if timeout_s > 0 else 0.0
