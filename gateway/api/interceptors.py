"""What stands between gRPC and the services.

From the outside in: every exception gets a status, every call's end a load report, and every request is decoded safely.
"""

from __future__ import annotations

import logging
import math
import random
import struct
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc import aio

from textserve.v1 import generation_pb2 as pb

from ..domain.errors import (
    WORKER_LOST,
    Code,
    ServiceError,
    internal,
    invalid_request,
    message_too_large,
    undecodable,
    unknown_method,
)
from .codec import LISTS
from .rich_status import abort
from .wire import Walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


SERVICES = "/textserve."
"""What the names of our methods begin with."""


WALKED_BYTES = 64 * 1024
"""A request with more bytes is looked through before it is parsed; one with fewer is parsed in a millisecond."""


Request = TypeVar("Request")


Response = TypeVar("Response")


if TYPE_CHECKING:
    Context = aio.ServicerContext[Any, Any]
    Behavior = Callable[[Any, Context], Awaitable[Any]]
    Deserializer = Callable[[bytes], Any]
    Serializer = Callable[[Any], bytes]
    Handler = grpc.RpcMethodHandler[Request, Response] | None
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler[Request, Response]]]


class _Wrapping(aio.ServerInterceptor):
    """Wraps the handler of each method that there is, once: from then on the interceptors inside are not asked."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Continuation[Request, Response], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler[Request, Response]:
        """Wraps the handler of a call."""
        method = handler_call_details.method
        if (known := self._handlers.get(method)) is not None:
            return known  # type: ignore[no-any-return]
        handler = self._wrap(method, await continuation(handler_call_details))
        if handler is not None:  # else callers could make up names
            self._handlers[method] = handler
        return handler

    def _wrap(self, method: str, handler: Handler[Request, Response]) -> Handler[Request, Response]:
        raise NotImplementedError


class ErrorMapping(_Wrapping):
    """Names each call, and ends those whose handler raised: a ServiceError with its status, others with INTERNAL.

    The log has a line for each, with that name, and a traceback for what is no ServiceError.
    """

    async def intercept_service(
        self, continuation: Continuation[Request, Response], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler[Request, Response]:
        """Wraps the handler of a call; a method that does not exist is refused with details, too."""
        handler = await super().intercept_service(continuation, handler_call_details)
        return handler or _no_method(handler_call_details.method)

    def _wrap(self, method: str, handler: Handler[Request, Response]) -> Handler[Request, Response]:
        return _wrapped(handler, lambda behavior: _answering(behavior, method))


class LoadReports(_Wrapping):
    """Ends the calls of our services with a report of the load.

    Args:
        utilization: Rows that run and wait, relative to those that there are.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, utilization: Callable[[], float], clock: Callable[[], float]) -> None:
        super().__init__()
        self._utilization = utilization
        self._clock = clock
        self._calls, self._errors = Rate(clock()), Rate(clock())

    def _wrap(self, method: str, handler: Handler[Request, Response]) -> Handler[Request, Response]:
        # Health checks are no load.
        return _wrapped(handler, self._reporting) if method.startswith(SERVICES) else handler

    def _reporting(self, behavior: Behavior) -> Behavior:
        async def reporting(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
            try:
                return await behavior(request, context)
            except Exception as error:
                if _is_fault(error):
                    self._errors.observe(self._clock())
                raise
            finally:
                context.set_trailing_metadata(((TRAILER, self._report().encode()),))

        return reporting

    def _report(self) -> LoadReport:
        now = self._clock()
        self._calls.observe(now)
        return LoadReport(self._utilization(), self._calls.value(now), self._errors.value(now))


class DecodeGuard(_Wrapping):
    """Refuses, with details, requests that can't be decoded, are too large, or have lists that are too long.

    Args:
        max_message_bytes: Most bytes of a request.
    """

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__()
        self._max_message_bytes = max_message_bytes

    def _wrap(self, method: str, handler: Handler[Request, Response]) -> Handler[Request, Response]:
        walk = _walk(method)
        return _wrapped(handler, _refusing, lambda deserialize: self._guarded(deserialize, walk))

    def _guarded(self, deserialize: Deserializer, walk: Walk | None) -> Deserializer:
        """Returns the refusal in the place of a message: what a deserializer raises ends in UNKNOWN."""

        def guarded(data: bytes) -> Any:  # noqa: ANN401 - a message of any type, or a refusal
            if len(data) > self._max_message_bytes:
                return message_too_large(len(data), self._max_message_bytes)
            if walk and len(data) > WALKED_BYTES and (violation := walk.violation(data)):
                return invalid_request([violation])
            try:
                return deserialize(data)
            except DecodeError:
                return undecodable()

        return guarded


def _is_fault(error: Exception) -> bool:
    """Whether the gateway or its workers failed. What a caller did, or its deadline, would drive away others' calls."""
    if isinstance(error, ServiceError):
        return error.code is Code.INTERNAL or error.reason == WORKER_LOST
    return not isinstance(error, (aio.AbortError, aio.InternalError))


def _walk(method: str) -> Walk | None:
    """How requests of a method are looked through; None if it is of no known service."""
    service, _, name = method.removeprefix("/").partition("/")
    try:
        request = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
    except KeyError:
        return None
    return Walk(request, LISTS if request.full_name == pb.GenerateRequest.DESCRIPTOR.full_name else {})


def _refusing(behavior: Behavior) -> Behavior:
    async def refusing(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        if isinstance(request, ServiceError):
            raise request
        return await behavior(request, context)

    return refusing


def _answering(behavior: Behavior, method: str) -> Behavior:
    async def answering(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        name = begin_request()
        try:
            return await behavior(request, context)
        except ServiceError as error:
            # Not the message, which may quote the caller, line breaks and all; the caller has it.
            logger.info("request %s: %s ends with %s / %s", name, method, error.code.name, error.reason)
            await abort(context, error, name)
        except aio.AbortError:
            raise
        except aio.InternalError as error:
            # What is written to a caller that has left fails so: no bug, and nobody hears this status.
            logger.debug("request %s: %s: %r", name, method, error)
            await abort(context, internal(), name)
        except Exception:
            logger.exception("request %s: %s failed", name, method)
            await abort(context, internal(), name)

    return answering


def _no_method(method: str) -> Handler[Request, Response]:
    """Refuses calls of any kind, unread."""

    async def refusing(_requests: Any, context: Context) -> None:  # noqa: ANN401 - any messages
        await abort(context, unknown_method(method), begin_request())

    return grpc.stream_stream_rpc_method_handler(refusing)


def _same(deserialize: Deserializer) -> Deserializer:
    return deserialize


def _wrapped(
    handler: Handler[Request, Response],
    wrap: Callable[[Behavior], Behavior],
    guard: Callable[[Deserializer], Deserializer] = _same,
) -> Handler[Request, Response]:
    """A handler of calls with one request, wrapped. Others are left as they are: unknown methods, and reflection."""
    if handler is None or handler.request_streaming:
        return handler
    make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    behavior: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
    deserialize: Any = handler.request_deserializer
    return make(wrap(behavior), guard(deserialize), _written(handler.response_serializer))


def _written(serialize: Serializer | None) -> Serializer | None:
    """Lets through what a behavior has written by itself, off the event loop."""
    if serialize is None:
        return None
    return lambda response: response if isinstance(response, bytes) else serialize(response)


TRAILER = "endpoint-load-metrics-bin"


# Field numbers of OrcaLoadReport, each behind it the wire type of a double.
_RPS_FRACTIONAL = 6 << 3 | 1


_EPS = 7 << 3 | 1


_APPLICATION_UTILIZATION = 9 << 3 | 1


_RATE_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How much a gateway does, in what a load balancer weighs it by; each at least 0."""

    utilization: float
    """Rows that run and wait, relative to those that there are; above 1 while work waits."""

    calls_per_s: float
    errors_per_s: float

    def encode(self) -> bytes:
        """The bytes of the message."""
        return struct.pack(
            "<BdBdBd",
            _RPS_FRACTIONAL,
            self.calls_per_s,
            _EPS,
            self.errors_per_s,
            _APPLICATION_UTILIZATION,
            self.utilization,
        )


class Rate:
    """Events a second over the last seconds, older ones counting ever less.

    Args:
        now: When it begins to count, in seconds.
    """

    def __init__(self, now: float) -> None:
        self._began_at = self._counted_at = now
        self._count = 0.0

    def observe(self, now: float) -> None:
        """An event."""
        self._count = self._faded(now) + 1.0
        self._counted_at = now

    def value(self, now: float) -> float:
        """Events a second; 0 in the instant that it begins in."""
        seconds = _RATE_WINDOW_S * -math.expm1((self._began_at - now) / _RATE_WINDOW_S)
        return self._faded(now) / seconds if seconds > 0 else 0.0

    def _faded(self, now: float) -> float:
        return self._count * math.exp((self._counted_at - now) / _RATE_WINDOW_S)


_request_id: ContextVar[str] = ContextVar("server_request_id")


def begin_request() -> str:
    """Names the call that the running task answers, anew: 16 hexadecimal digits."""
    name = f"{random.getrandbits(64):016x}"
    _request_id.set(name)
    return name


def current_request_id() -> str:
    """The name of the call that the running task answers."""
    return _request_id.get(None) or begin_request()
