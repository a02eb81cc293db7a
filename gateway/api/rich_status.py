"""Turns a ServiceError into a gRPC status with google.rpc details, and ends a call with it."""

from collections.abc import Iterator
from typing import Any, NoReturn

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio
from grpc_status import rpc_status

from ..domain.errors import Code, ServiceError

DOMAIN = "textserve.dev"
"""Of the reasons in ErrorInfo. A name as DNS has them, so that no other service has the same."""
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer that tells the retry policy of a caller's library when to send a request again; below 0: never."""


def rich_status(error: ServiceError, server_request_id: str = "") -> status_pb2.Status:
    """The status with its details: ErrorInfo and RequestInfo always, and what else the error has."""
    status = status_pb2.Status(code=int(error.code), message=error.message)
    for detail in _details(error, server_request_id):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(context: aio.ServicerContext[Any, Any], error: ServiceError, server_request_id: str) -> NoReturn:
    """Ends the call with the error's status."""
    status = rpc_status.to_status(rich_status(error, server_request_id))
    trailers = (*(context.trailing_metadata() or ()), *status.trailing_metadata, *_pushback(error))
    await context.abort(status.code, status.details, trailers)


def _pushback(error: ServiceError) -> tuple[tuple[str, str], ...]:
    if not error.safe_to_retry:
        return ((PUSHBACK, "-1"),)
    # What is UNAVAILABLE here may be there at once at another gateway: the caller's own backoff knows better.
    if error.code is not Code.RESOURCE_EXHAUSTED or error.retry_after_s is None:
        return ()
    return ((PUSHBACK, str(round(error.retry_after_s * 1000))),)


def _details(error: ServiceError, server_request_id: str) -> Iterator[Message]:
    yield error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    yield error_details_pb2.RequestInfo(request_id=server_request_id)
    if error.violations:
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=violation.field, reason=violation.reason, description=violation.description
                )
                for violation in error.violations
            ]
        )
    if error.quota:
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=error.quota.subject, description=error.quota.description
        )
        yield error_details_pb2.QuotaFailure(violations=[violation])
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        yield error_details_pb2.RetryInfo(retry_delay=delay)
