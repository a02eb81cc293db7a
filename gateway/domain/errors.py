"""The errors that callers see, each with a code, a reason and details.

    ServiceError
        invalid_request       INVALID_ARGUMENT    INVALID_REQUEST, or the reason of its violations if they share one
        undecodable           INVALID_ARGUMENT    UNDECODABLE_MESSAGE
        unknown_fields        INVALID_ARGUMENT    UNKNOWN_FIELD
        message_too_large     RESOURCE_EXHAUSTED  MESSAGE_TOO_LARGE
        model_not_found       NOT_FOUND           MODEL_NOT_FOUND
        unknown_service       NOT_FOUND           UNKNOWN_SERVICE
        unknown_method        UNIMPLEMENTED       UNKNOWN_METHOD
        request_id_taken      ALREADY_EXISTS      REQUEST_ID_TAKEN
        queue_full            RESOURCE_EXHAUSTED  QUEUE_FULL
        wait_too_long         RESOURCE_EXHAUSTED  QUEUE_FULL
        tenant_quota          RESOURCE_EXHAUSTED  TENANT_QUOTA
        slow_reader           RESOURCE_EXHAUSTED  SLOW_READER
        no_worker             UNAVAILABLE         NO_WORKER
        worker_lost           UNAVAILABLE         WORKER_LOST
        draining              UNAVAILABLE         DRAINING
        deadline_exceeded     DEADLINE_EXCEEDED   REQUEST_TIMEOUT
        deadline_unreachable  DEADLINE_EXCEEDED   DEADLINE_UNREACHABLE
        generation_failed     INTERNAL            as the worker says, such as NON_FINITE_LOGITS
        poison_request        INTERNAL            POISON_REQUEST
        internal              INTERNAL            INTERNAL

`api.rich_status` turns them into gRPC statuses with google.rpc details.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

# Details travel in the trailing metadata, of which gRPC takes 8 KiB by default.
MAX_VIOLATIONS = 20
MAX_QUOTED_CHARS = 100

MAX_FOREIGN_CHARS = 200
"""Of a text that is not ours, such as what a model's chat template says. Up to 12 bytes each as gRPC sends them."""

WORKER_LOST = "WORKER_LOST"


class Code(IntEnum):
    """The status codes in use, with their numbers in google.rpc.Code."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request: the path of the field, a reason in UPPER_SNAKE_CASE and a sentence."""

    field: str
    reason: str
    description: str


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit that was reached: what it is on, and a sentence with the figures."""

    subject: str
    description: str


# Not frozen: what re-raises an exception sets its traceback.
@dataclass(eq=False)
class ServiceError(Exception):
    """A refusal or a failure that the caller is told about."""

    code: Code
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    violations: tuple[Violation, ...] = ()
    quota: Quota | None = None
    retry_after_s: float | None = None
    safe_to_retry: bool = True
    """Whether a caller's library may send it again by itself; false for what may have done the harm."""

    def __str__(self) -> str:
        return f"{self.code.name} / {self.reason}: {self.message}"


def invalid_request(violations: Sequence[Violation]) -> ServiceError:
    """All that is wrong with a request, at once."""
    reasons = {violation.reason for violation in violations}
    shown = "; ".join(f"{violation.field}: {violation.description}" for violation in violations[:3])
    more = f"; and {len(violations) - 3} more" if len(violations) > 3 else ""
    return ServiceError(
        Code.INVALID_ARGUMENT,
        reasons.pop() if len(reasons) == 1 else "INVALID_REQUEST",
        shown + more,
        violations=tuple(violations[:MAX_VIOLATIONS]),
    )


def undecodable() -> ServiceError:
    """Bytes that are no message of the expected type, or a string in them that is no UTF-8."""
    text = "the request is no valid protobuf message of its type; strings must be UTF-8"
    return ServiceError(
        Code.INVALID_ARGUMENT,
        "UNDECODABLE_MESSAGE",
        text,
        violations=(Violation("", "UNDECODABLE_MESSAGE", text),),
    )


def unknown_fields(fields: Sequence[str]) -> ServiceError:
    """A request with fields that this server does not know: a newer caller asks for what would not be heeded."""
    text = "is a field that this server does not know; a newer one may"
    return invalid_request([Violation(field, "UNKNOWN_FIELD", text) for field in fields])


def message_too_large(size_bytes: int, limit_bytes: int) -> ServiceError:
    """A request above the message limit. To wait does not help, so there is no retry delay."""
    text = f"the request has {size_bytes} bytes; the limit is {limit_bytes}"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "MESSAGE_TOO_LARGE",
        text,
        metadata={"limitBytes": str(limit_bytes)},
        quota=Quota("message_bytes", text),
    )


def model_not_found(requested: str, served: str) -> ServiceError:
    """A request for a model that is not served here."""
    return ServiceError(
        Code.NOT_FOUND,
        "MODEL_NOT_FOUND",
        f"model {quoted(requested)} is not served here; {quoted(served)} is",
        metadata={"model": shortened(requested, MAX_QUOTED_CHARS), "servedModel": served},
    )


def unknown_service(name: str) -> ServiceError:
    """A health check of what is not here."""
    return ServiceError(Code.NOT_FOUND, "UNKNOWN_SERVICE", f"there is no service {quoted(name)} here")


def unknown_method(name: str) -> ServiceError:
    """A call of a method that no service here has."""
    return ServiceError(Code.UNIMPLEMENTED, "UNKNOWN_METHOD", f"there is no method {quoted(name)} here")


def request_id_taken(request_id: str) -> ServiceError:
    """Another request of the same tenant has this name, and is generated, or was a short while ago."""
    text = f"another request has the name {quoted(request_id)}"
    return ServiceError(
        Code.ALREADY_EXISTS, "REQUEST_ID_TAKEN", text, violations=(Violation("request_id", "REQUEST_ID_TAKEN", text),)
    )


def queue_full(limit: int, retry_after_s: float, *, unit: str = "requests") -> ServiceError:
    """As much waits as may wait, in requests or in prompt tokens."""
    text = f"at most {limit} {unit} may wait; this request would be more"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        text,
        metadata={"limit": str(limit)},
        quota=Quota(f"queued {unit}", text),
        retry_after_s=retry_after_s,
    )


def wait_too_long(queue_s: float, limit_s: float, retry_after_s: float) -> ServiceError:
    """What is before it would take longer than anything is to wait."""
    text = f"the queue before this request takes {queue_s:.3g} s at the least; at most {limit_s:.3g} s are waited"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        text,
        metadata={"estimateSeconds": f"{queue_s:.3f}", "limitSeconds": f"{limit_s:g}"},
        quota=Quota("expected wait", text),
        retry_after_s=retry_after_s,
    )


def tenant_quota(tenant: str, limit: int, retry_after_s: float, *, unit: str = "requests") -> ServiceError:
    """As much of one tenant waits as may, in requests or in prompt tokens. Others are served."""
    text = f"at most {limit} {unit} of tenant {quoted(tenant)} may wait; this request would be more"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "TENANT_QUOTA",
        text,
        metadata={"limit": str(limit), "tenant": tenant},
        quota=Quota(f"tenant:{tenant}", text),
        retry_after_s=retry_after_s,
    )


def slow_reader(limit_chars: int) -> ServiceError:
    """A caller that reads so slowly that more than the limit has piled up for it."""
    text = f"more than {limit_chars} characters are waiting to be read"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "SLOW_READER",
        text,
        quota=Quota("undelivered_characters", text),
        retry_after_s=1.0,
    )


def no_worker() -> ServiceError:
    """No worker is ready: they are starting, or all are lost."""
    return ServiceError(Code.UNAVAILABLE, "NO_WORKER", "no worker is ready", retry_after_s=1.0)


def worker_lost(worker: str, why: str) -> ServiceError:
    """The worker that ran the request died, hung or became unreachable."""
    return ServiceError(
        Code.UNAVAILABLE,
        WORKER_LOST,
        f"{worker} was lost while it ran the request: {why}",
        metadata={"worker": worker},
        retry_after_s=1.0,
        safe_to_retry=False,
    )


def draining() -> ServiceError:
    """This gateway is shutting down."""
    return ServiceError(Code.UNAVAILABLE, "DRAINING", "the server is shutting down", retry_after_s=1.0)


def deadline_exceeded(limit_s: float, phase: str) -> ServiceError:
    """The server's own limit on the time of a request has passed."""
    return ServiceError(
        Code.DEADLINE_EXCEEDED,
        "REQUEST_TIMEOUT",
        f"the request was not finished within {limit_s:g} s; it was in phase {phase}",
        metadata={"phase": phase},
    )


def deadline_unreachable(wait_s: float, remaining_s: float) -> ServiceError:
    """The queue and the prefill alone would take longer than the deadline leaves. Nothing has been done."""
    return ServiceError(
        Code.DEADLINE_EXCEEDED,
        "DEADLINE_UNREACHABLE",
        f"the first token is expected after {wait_s:.3g} s at the earliest, the deadline is in {remaining_s:.3g} s",
        metadata={"estimateSeconds": f"{wait_s:.3f}", "remainingSeconds": f"{remaining_s:.3f}"},
    )


def generation_failed(reason: str) -> ServiceError:
    """The worker gave this request up; others go on."""
    return ServiceError(Code.INTERNAL, reason or "GENERATION_FAILED", "the model failed on this request")


def poison_request() -> ServiceError:
    """A request that ends the workers that run it. It must not be sent to another one."""
    return ServiceError(
        Code.INTERNAL, "POISON_REQUEST", "workers that run this request end; it is not tried again", safe_to_retry=False
    )


def internal() -> ServiceError:
    """A bug. What it is stands in the log only."""
    return ServiceError(Code.INTERNAL, "INTERNAL", "internal error")


def quoted(text: str) -> str:
    """`text` in double quotes, cut to what fits into a message, with line breaks and the like as JSON escapes them."""
    return json.dumps(shortened(text, MAX_QUOTED_CHARS), ensure_ascii=False)


def shortened(text: str, limit: int = MAX_FOREIGN_CHARS) -> str:
    """`text`, cut to what fits into a message."""
    return text if len(text) <= limit else text[:limit] + "..."


def out_of_range(field: str, description: str) -> Violation:
    """A value outside the range that the proto names."""
    return Violation(field, "OUT_OF_RANGE", description)
