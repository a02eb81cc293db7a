"""Turns a ServiceError into a gRPC status with google.rpc details, and ends a call with it."""

from collections.abc import Iterator
from typing import Any, NoReturn

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio
from grpc_status import rpc_status

from .errors import ServiceError

DOMAIN = "textserve"
STOP_RETRIES = ("grpc-retry-pushback-ms", "-1")
"""Trailer that keeps the retry policy of a caller's library from sending a request again."""


def rich_status(error: ServiceError) -> status_pb2.Status:
    """The status with its details: ErrorInfo always, and what else the error has."""
    status = status_pb2.Status(code=int(error.code), message=error.message)
    for detail in _details(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(context: aio.ServicerContext[Any, Any], error: ServiceError) -> NoReturn:
    """Ends the call with the error's status."""
    status = rpc_status.to_status(rich_status(error))
    trailers = (*status.trailing_metadata, *(() if error.safe_to_retry else (STOP_RETRIES,)))
    await context.abort(status.code, status.details, trailers)


def _details(error: ServiceError) -> Iterator[Message]:
    yield error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
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
