"""From a gRPC status and its google.rpc details to the error tree of `errors`."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from . import (
    CallCancelledError,
    DeadlineExceededError,
    DeadlineUnreachableError,
    ErrorDetails,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    ResourceExhaustedError,
    ServerError,
    TextserveError,
    UnauthenticatedError,
    UnavailableError,
)

DETAILS_TRAILER = "grpc-status-details-bin"

ERRORS: Mapping[grpc.StatusCode, type[TextserveError]] = MappingProxyType(
    {
        grpc.StatusCode.CANCELLED: CallCancelledError,
        grpc.StatusCode.UNKNOWN: ServerError,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.ALREADY_EXISTS: InvalidRequestError,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
        grpc.StatusCode.FAILED_PRECONDITION: InvalidRequestError,
        grpc.StatusCode.ABORTED: UnavailableError,
        grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
        grpc.StatusCode.UNIMPLEMENTED: ServerError,
        grpc.StatusCode.INTERNAL: ServerError,
        grpc.StatusCode.UNAVAILABLE: UnavailableError,
        grpc.StatusCode.DATA_LOSS: ServerError,
        grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    }
)
"""The error of every status code but OK."""

REASONS: Mapping[str, type[TextserveError]] = MappingProxyType(
    {"DEADLINE_UNREACHABLE": DeadlineUnreachableError, "TENANT_QUOTA": QuotaExceededError}
)
"""The errors of reasons that call for something else than others of their code."""

_Detail = TypeVar("_Detail", bound=Message)


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Raises the error of our tree in place of gRPC's."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


def error_from_rpc(error: grpc.RpcError) -> TextserveError:
    """The error of our tree for a failed call."""
    details = _details(error)
    return REASONS.get(details.reason, ERRORS[details.code])(details)


def cancelled_locally() -> CallCancelledError:
    """The error of a call that this side has cancelled."""
    return CallCancelledError(ErrorDetails(grpc.StatusCode.CANCELLED, "the call was cancelled on this side"))


def client_closed() -> CallCancelledError:
    """The error of a call with a client that was closed before."""
    return CallCancelledError(ErrorDetails(grpc.StatusCode.CANCELLED, "the client is closed"))


def protocol_error(message: str) -> ServerError:
    """The error of a server that does not keep to the protocol."""
    return ServerError(ErrorDetails(grpc.StatusCode.INTERNAL, message, reason="PROTOCOL_ERROR"))


def _details(error: grpc.RpcError) -> ErrorDetails:
    status = _rich_status(error)
    info = _detail(status, error_details_pb2.ErrorInfo)
    request = _detail(status, error_details_pb2.BadRequest)
    retry = _detail(status, error_details_pb2.RetryInfo)
    return ErrorDetails(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=tuple(
            FieldViolation(each.field, each.description, each.reason) for each in request.field_violations
        ),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
        server_request_id=_detail(status, error_details_pb2.RequestInfo).request_id,
    )


def _rich_status(error: grpc.RpcError) -> status_pb2.Status:
    # The stubs' type of an entry is no tuple; at run time it is one, in both of gRPC's APIs.
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in trailers:
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            return _parsed(status_pb2.Status, value)
    return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """The detail of this kind; an empty one if there is none."""
    for packed in status.details:
        if packed.TypeName() == kind.DESCRIPTOR.full_name:
            return _parsed(kind, packed.value)
    return kind()


def _parsed(kind: type[_Detail], data: bytes) -> _Detail:
    """The message; an empty one if a proxy has mangled it, because code and message of the status still stand."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return kind()
