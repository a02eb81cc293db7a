"""The errors that the client raises: one class for each thing that a caller can do about it.

    TextserveError
    ├── InvalidRequestError       the request is wrong: change what `violations` names
    ├── NotFoundError             there is no such model
    ├── UnauthenticatedError      the credentials are missing or wrong
    ├── PermissionDeniedError     the credentials do not allow it
    ├── ResourceExhaustedError    the queue is full, or a limit is reached: try again after `retry_after`
    │   └── QuotaExceededError    as much of this tenant waits as may; others are served
    ├── UnavailableError          no connection, no worker, or the server is draining: try again
    ├── DeadlineExceededError     the timeout passed: allow more time, or ask for less
    │   └── DeadlineUnreachableError  it would have: nothing was begun, `estimate` says what the wait alone takes
    ├── CallCancelledError        the call was cancelled, or its client is closed
    └── ServerError               the server failed, broke the protocol, or does not know the call: report it

Arguments that cannot be put into a request at all (a prompt of bytes, a timeout of 0) raise TypeError or ValueError
before anything is sent, and so does RuntimeError an AsyncClient that is used in another event loop than before.

This folder must not know the messages of textserve's own protocol, nor calls: `_status` reads what gRPC says of a call
that has failed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field, such as "generation_config.temperature"."""
    description: str
    """What is wrong with it."""
    reason: str = ""
    """Why, in UPPER_SNAKE; empty if the server gave none."""


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What is known about a call that failed: its gRPC status and the google.rpc details that came with it."""

    code: grpc.StatusCode
    """The gRPC status code."""
    message: str = ""
    """The message, for people."""
    reason: str = ""
    """Why, in UPPER_SNAKE, such as "WORKER_LOST"; empty if the server gave none, as when there is no connection."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """More about the reason."""
    violations: tuple[FieldViolation, ...] = ()
    """What is wrong with the request."""
    retry_after: float | None = None
    """Seconds to wait before another attempt; None if the server did not say."""
    server_request_id: str = ""
    """The server's own name for the call, by which its log tells of it; empty if no server answered."""


class TextserveError(Exception):
    """A call failed. Each of its subclasses says what a caller can do about it."""

    def __init__(self, details: ErrorDetails) -> None:
        super().__init__(details)
        self.details = details
        self.code = details.code
        self.message = details.message
        self.reason = details.reason
        self.metadata = details.metadata
        self.retry_after = details.retry_after
        self.server_request_id = details.server_request_id

    def __str__(self) -> str:
        name = f"{self.code.name}/{self.reason}" if self.reason else self.code.name
        return f"{name}: {self.message}" if self.message else name


class InvalidRequestError(TextserveError):
    """The request is wrong."""

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """Everything that is wrong with it, as far as the server says."""
        return self.details.violations

    def __str__(self) -> str:
        more = [f"{each.field}: {each.description}" for each in self.violations if each.description not in self.message]
        return f"{super().__str__()} ({'; '.join(more)})" if more else super().__str__()


class NotFoundError(TextserveError):
    """There is no model of that name."""


class UnauthenticatedError(TextserveError):
    """The credentials are missing or wrong."""


class PermissionDeniedError(TextserveError):
    """The credentials do not allow the call."""


class ResourceExhaustedError(TextserveError):
    """The queue is full, a quota is used up, or (without a reason) a message is larger than a limit."""


class QuotaExceededError(ResourceExhaustedError):
    """As many requests of this tenant wait, or as many tokens of their prompts, as may. Others are served."""


class UnavailableError(TextserveError):
    """No connection, no worker, or a server that is draining; what a stream has delivered stands."""


class DeadlineExceededError(TextserveError):
    """The call took longer than its timeout, or than a limit of the server (then with a reason)."""


class DeadlineUnreachableError(DeadlineExceededError):
    """The wait and the prompt alone would have taken longer than the timeout: refused at once, nothing was begun."""

    @property
    def estimate(self) -> float | None:
        """Seconds to the first token, at the least, as the server estimates them; None if it did not say."""
        text = self.metadata.get("estimateSeconds")
        return None if text is None else float(text)


class CallCancelledError(TextserveError):
    """The call was cancelled, by leaving its stream or by the server, or its client is closed."""


class ServerError(TextserveError):
    """The server failed, broke the protocol, or does not know the call."""
