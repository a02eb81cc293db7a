"""What stands between gRPC and the services: calls get names, requests are decoded safely, ends a status and a report.

The report is of the load, in the trailers of calls, by which callers' libraries spread their calls over gateways.
"""

from __future__ import annotations

import logging
import math
import random
import struct
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc import aio

from ..domain.errors import (
    MAX_VIOLATIONS,
    WORKER_LOST,
    Code,
    ServiceError,
    internal,
    invalid_request,
    message_too_large,
    undecodable,
    unknown_fields,
    unknown_method,
)
from .codec import LISTS_OF
from .rich_status import abort
from .wire import Walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

    from ..dispatch.dispatcher import Dispatcher

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


class CallInterceptor(aio.ServerInterceptor):
    """Wraps the handler of each method, once: it names each call, ends it well, and tells of the load.

    A request that can't be decoded, is too large, or has lists that are too long is refused with details. A handler
    that raised ends its call: a ServiceError with its status, anything else with INTERNAL. The log has a line for each,
    with the call's name, and a traceback for what is no ServiceError. The calls of our services end with a report of
    the load.

    Args:
        dispatcher: Its utilization is reported.
        max_message_bytes: Most bytes of a request.
        allow_unknown_fields: Whether to serve requests with fields that are not known here, as if they were not there.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        max_message_bytes: int,
        allow_unknown_fields: bool = False,
        clock: Callable[[], float],
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._allow_unknown_fields = allow_unknown_fields
        self._dispatcher = dispatcher
        self._clock = clock
        self._calls, self._errors = Rate(clock()), Rate(clock())
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Continuation[Request, Response], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler[Request, Response]:
        """Wraps the handler of a call; a method that does not exist is refused with details, too."""
        method = handler_call_details.method
        if (known := self._handlers.get(method)) is not None:
            return known  # type: ignore[no-any-return]
        handler = await continuation(handler_call_details)
        if handler is None:  # not kept: callers could make up names
            return _no_method(method)
        self._handlers[method] = wrapped = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler[Request, Response]) -> Handler[Request, Response]:
        """A handler of calls with one request, wrapped. Others are left as they are: that of reflection."""
        if handler.request_streaming:
            return handler
        is_stream = handler.response_streaming
        make = grpc.unary_stream_rpc_method_handler if is_stream else grpc.unary_unary_rpc_method_handler
        behavior: Any = handler.unary_stream if is_stream else handler.unary_unary
        deserialize: Any = handler.request_deserializer
        serialize = handler.response_serializer
        return make(
            self._answering(behavior, method),
            self._guarded(deserialize, _walk(method), is_ours=method.startswith(SERVICES)),
            serialize if is_stream else _written(serialize),
        )

    def _guarded(self, deserialize: Deserializer, walk: Walk | None, *, is_ours: bool) -> Deserializer:
        """Returns the refusal in the place of a message: what a deserializer raises ends in UNKNOWN."""
        refuses_unknown = is_ours and not self._allow_unknown_fields

        def guarded(data: bytes) -> Any:  # noqa: ANN401 - a message of any type, or a refusal
            if len(data) > self._max_message_bytes:
                return message_too_large(len(data), self._max_message_bytes)
            if walk and len(data) > WALKED_BYTES and (violation := walk.violation(data)):
                return invalid_request([violation])
            try:
                message = deserialize(data)
                if refuses_unknown and _has_unknown_fields(message):
                    return unknown_fields(list(islice(_unknown_fields(deserialize(data)), MAX_VIOLATIONS)))
            except DecodeError:
                return undecodable()
            return message

        return guarded

    def _answering(self, behavior: Behavior, method: str) -> Behavior:
        is_load = method.startswith(SERVICES)  # health checks are none

        async def answering(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
            name = begin_request()
            try:
                if isinstance(request, ServiceError):
                    raise request  # noqa: TRY301 - as if the behavior had refused it
                response = await behavior(request, context)
            except BaseException as error:
                if is_load:
                    self._report(context, is_fault=_is_fault(error))
                if isinstance(error, Exception) and not isinstance(error, aio.AbortError):
                    await abort(context, _logged(error, method, name), name)
                raise
            if is_load:
                self._report(context, is_fault=False)
            return response

        return answering

    def _report(self, context: Context, *, is_fault: bool) -> None:
        now = self._clock()
        self._calls.observe(now)
        if is_fault:
            self._errors.observe(now)
        report = LoadReport(self._dispatcher.utilization, self._calls.value(now), self._errors.value(now))
        context.set_trailing_metadata(((TRAILER, report.encode()),))


def _has_unknown_fields(message: Message) -> bool:
    """Whether there are any, at any depth; they are dropped."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() < size


def _unknown_fields(message: Message, within: str = "") -> Iterator[str]:
    """Paths of the fields that are not known, each ending with a number."""
    unknown = UnknownFieldSet(message)
    for index in range(len(unknown)):
        yield f"{within}{unknown[index].field_number}"
    for field, value in message.ListFields():
        for name, each in _messages(field, value):
            yield from _unknown_fields(each, f"{within}{name}.")


def _messages(field: FieldDescriptor, value: Any) -> Iterator[tuple[str, Message]]:  # noqa: ANN401 - of any field
    """The messages that a field holds, and what they are called."""
    if field.message_type is None:
        return
    if not field.is_repeated:
        yield field.name, value
    elif not field.message_type.GetOptions().map_entry:
        yield from ((f"{field.name}[{index}]", each) for index, each in enumerate(value))
    elif field.message_type.fields_by_name["value"].message_type:
        yield from ((f"{field.name}[{key}]", each) for key, each in value.items())


def _is_fault(error: BaseException) -> bool:
    """Whether the gateway or its workers failed. What a caller did, or its deadline, would drive away others' calls."""
    if isinstance(error, ServiceError):
        return error.code is Code.INTERNAL or error.reason == WORKER_LOST
    return isinstance(error, Exception) and not isinstance(error, (aio.AbortError, aio.InternalError))


def _walk(method: str) -> Walk | None:
    """How requests of a method are looked through; None if it is of no known service."""
    service, _, name = method.removeprefix("/").partition("/")
    try:
        request = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
    except KeyError:
        return None
    return Walk(request, LISTS_OF.get(request.full_name, {}))


def _logged(error: Exception, method: str, name: str) -> ServiceError:
    """Tells the log of the end of a call; returns what the caller is told."""
    if isinstance(error, ServiceError):
        # Not the message, which may quote the caller, line breaks and all; the caller has it.
        logger.info("request %s: %s ends with %s / %s", name, method, error.code.name, error.reason)
        return error
    if isinstance(error, aio.InternalError):
        # What is written to a caller that has left fails so: no bug, and nobody hears this status.
        logger.debug("request %s: %s: %r", name, method, error)
    else:
        logger.error("request %s: %s failed", name, method, exc_info=error)
    return internal()


def _no_method(method: str) -> Handler[Request, Response]:
    """Refuses calls of any kind, unread."""

    async def refusing(_requests: Any, context: Context) -> None:  # noqa: ANN401 - any messages
        await abort(context, unknown_method(method), begin_request())

    return grpc.stream_stream_rpc_method_handler(refusing)


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
    """How much a gateway does, in what a load balancer weighs it by; each at least 0.

    It is ORCA's `xds.data.orca.v3.OrcaLoadReport`, as gRPC's policy `weighted_round_robin` reads it (gRFC A51, A58).
    The numbers are encoded here: the package with the generated message overwrites files of googleapis-common-protos.
    """

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
    """Names the call that the running task answers, anew: 16 hexadecimal digits.

    By it the gateway's log, its answers and its errors tell of the same call. It is not the `request_id` that a caller
    may choose: that one names what several calls share.
    """
    name = f"{random.getrandbits(64):016x}"
    _request_id.set(name)
    return name


def current_request_id() -> str:
    """The name of the call that the running task answers."""
    return _request_id.get(None) or begin_request()
