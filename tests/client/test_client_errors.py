"""Every gRPC status becomes one error of the tree, with all that its details say."""

import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from client import (
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
from client.errors._status import ERRORS, REASONS
from tests.client.callers import Caller
from tests.client.scripted_server import ScriptedServer, failing

EXPECTED: dict[grpc.StatusCode, type[TextserveError]] = {
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
EVERY_CODE = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]

INFO = error_details_pb2.ErrorInfo(reason="SOME_REASON", domain="textserve.dev", metadata={"limit": "16"})
VIOLATIONS = error_details_pb2.BadRequest(
    field_violations=[
        error_details_pb2.BadRequest.FieldViolation(
            field="generation_config.top_p", description="must be above 0", reason="OUT_OF_RANGE"
        ),
        error_details_pb2.BadRequest.FieldViolation(field="stop_sequences", description="at most 16"),
    ]
)
RETRY = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))


def failure_of_generate(caller: Caller) -> TextserveError:
    with pytest.raises(TextserveError) as caught:
        caller.generate("hello")
    return caught.value


def failure_of_stream(caller: Caller) -> TextserveError:
    with pytest.raises(TextserveError) as caught:
        caller.read("hello")
    return caught.value


def test_every_status_code_but_ok_has_an_error() -> None:
    assert set(ERRORS) == set(EVERY_CODE)


@pytest.mark.parametrize("code", EVERY_CODE, ids=lambda code: code.name)
def test_a_failed_call_raises_the_error_of_its_code(
    code: grpc.StatusCode, server: ScriptedServer, caller: Caller
) -> None:
    server.answer = server.script = failing(code, "that is why", (INFO,))
    for error in (failure_of_generate(caller), failure_of_stream(caller)):
        assert type(error) is EXPECTED[code]
        assert (error.code, error.message) == (code, "that is why")
        assert (error.reason, error.metadata) == ("SOME_REASON", {"limit": "16"})
        assert str(error) == f"{code.name}/SOME_REASON: that is why"


def test_an_invalid_request_names_all_violations(server: ScriptedServer, caller: Caller) -> None:
    server.answer = failing(grpc.StatusCode.INVALID_ARGUMENT, "stop_sequences: at most 16", (INFO, VIOLATIONS))
    error = failure_of_generate(caller)
    assert isinstance(error, InvalidRequestError)
    assert error.violations == (
        FieldViolation("generation_config.top_p", "must be above 0", "OUT_OF_RANGE"),
        FieldViolation("stop_sequences", "at most 16"),
    )
    # What the message leaves out is added, what it says is not said twice.
    assert str(error) == (
        "INVALID_ARGUMENT/SOME_REASON: stop_sequences: at most 16 (generation_config.top_p: must be above 0)"
    )


def test_an_overloaded_server_says_when_to_come_back(server: ScriptedServer, caller: Caller) -> None:
    server.answer = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "", (INFO, RETRY))
    assert failure_of_generate(caller).retry_after == 2.5


def test_a_timeout_that_cannot_be_kept_is_told_from_one_that_has_passed(server: ScriptedServer, caller: Caller) -> None:
    info = error_details_pb2.ErrorInfo(reason="DEADLINE_UNREACHABLE", metadata={"estimateSeconds": "12.500"})
    server.answer = server.script = failing(grpc.StatusCode.DEADLINE_EXCEEDED, "", (info,))
    for error in (failure_of_generate(caller), failure_of_stream(caller)):
        assert isinstance(error, DeadlineUnreachableError)
        assert isinstance(error, DeadlineExceededError)
        assert error.estimate == 12.5


def test_an_estimate_may_be_missing(server: ScriptedServer, caller: Caller) -> None:
    info = error_details_pb2.ErrorInfo(reason="DEADLINE_UNREACHABLE")
    server.answer = failing(grpc.StatusCode.DEADLINE_EXCEEDED, "", (info,))
    error = failure_of_generate(caller)
    assert isinstance(error, DeadlineUnreachableError)
    assert error.estimate is None


def test_a_tenants_quota_is_told_from_a_full_queue(server: ScriptedServer, caller: Caller) -> None:
    info = error_details_pb2.ErrorInfo(reason="TENANT_QUOTA", metadata={"tenant": "acme"})
    server.answer = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "", (info, RETRY))
    error = failure_of_generate(caller)
    assert isinstance(error, QuotaExceededError)
    assert isinstance(error, ResourceExhaustedError)
    assert (error.retry_after, error.metadata) == (2.5, {"tenant": "acme"})


def test_a_retry_delay_of_zero_is_not_taken_for_none(server: ScriptedServer, caller: Caller) -> None:
    now = error_details_pb2.RetryInfo(retry_delay=Duration())
    server.answer = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "", (now,))
    assert failure_of_generate(caller).retry_after == 0.0


def test_a_status_without_details_has_no_reason(server: ScriptedServer, caller: Caller) -> None:
    server.answer = failing(grpc.StatusCode.INTERNAL)
    error = failure_of_generate(caller)
    assert (error.reason, error.metadata, error.retry_after) == ("", {}, None)
    assert str(error) == "INTERNAL"


def test_mangled_details_leave_code_and_message(server: ScriptedServer, caller: Caller) -> None:
    server.answer = failing(grpc.StatusCode.NOT_FOUND, "no such model", raw_details=b"\xff\xff\xff")
    error = failure_of_generate(caller)
    assert isinstance(error, NotFoundError)
    assert (error.message, error.reason) == ("no such model", "")


def test_grpcs_own_error_stays_the_cause(server: ScriptedServer, caller: Caller) -> None:
    server.answer = failing(grpc.StatusCode.INTERNAL)
    assert isinstance(failure_of_generate(caller).__cause__, grpc.RpcError)


@pytest.mark.parametrize("kind", dict.fromkeys([*EXPECTED.values(), *REASONS.values()]))
def test_an_error_survives_pickling(kind: type[TextserveError]) -> None:
    details = ErrorDetails(
        grpc.StatusCode.UNAVAILABLE, "gone", "WORKER_LOST", {"worker": "1"}, (FieldViolation("a", "b"),), 1.0
    )
    copy = pickle.loads(pickle.dumps(kind(details)))  # noqa: S301 - our own bytes
    assert type(copy) is kind
    assert (copy.details, str(copy)) == (details, str(kind(details)))
