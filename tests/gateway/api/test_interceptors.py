"""Every exception of a handler gets a status, and none of them tells internals; what a library is told of retries."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode, aio

from gateway.api.interceptors import CallInterceptor
from gateway.api.rich_status import PUSHBACK
from gateway.domain import errors
from gateway.domain.errors import Code, ServiceError
from tests.gateway.dispatch.dispatching import dispatcher
from tests.gateway.serving import failing, failure_of


@asynccontextmanager
async def raising(error: BaseException) -> AsyncIterator[aio.UnaryUnaryMultiCallable[bytes, bytes]]:
    """A server whose only method raises."""

    async def behavior(request: bytes, context: object) -> bytes:
        raise error

    method = grpc.unary_unary_rpc_method_handler(behavior, bytes, bytes)
    interceptor = CallInterceptor(dispatcher(), max_message_bytes=100, clock=time.monotonic)
    server = aio.server(interceptors=(interceptor,))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Call": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.unary_unary("/test.Service/Call")
    await server.stop(0)


@pytest.mark.parametrize("code", Code)
async def test_a_service_error_has_its_code(code: Code) -> None:
    async with raising(ServiceError(code, "REASON", "what happened")) as call:
        failure = await failing(call(b""))

    assert (failure.code.name, failure.reason, failure.message) == (code.name, "REASON", "what happened")


@pytest.mark.parametrize("error", [RuntimeError("secret"), ValueError("secret"), KeyError("secret"), OSError("secret")])
async def test_any_other_exception_is_internal_and_its_text_stays_in_the_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with raising(error) as call:
        failure = await failing(call(b""))

    assert (failure.code, failure.reason) == (StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in failure.message
    assert "secret" in caplog.text


async def test_a_write_to_a_caller_that_has_left_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with raising(aio.InternalError("execute_batch")) as call:
        failure = await failing(call(b""))

    assert failure.reason == "INTERNAL"
    assert "execute_batch" not in caplog.text


async def refusal(error: ServiceError) -> aio.AioRpcError:
    """The call that failed so."""
    async with raising(error) as call:
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"")
    return caught.value


@pytest.mark.parametrize("retry_after_s", [0.05, 0.123, 1.0, 30.0])
async def test_a_library_that_retries_overload_by_itself_waits_as_long_as_its_caller_would(
    retry_after_s: float,
) -> None:
    error = await refusal(errors.queue_full(3, retry_after_s))

    delay = failure_of(error).detail(error_details_pb2.RetryInfo).retry_delay
    assert delay.ToMilliseconds() == round(retry_after_s * 1000)
    assert dict(error.trailing_metadata())[PUSHBACK] == str(delay.ToMilliseconds())


@pytest.mark.parametrize("harm", [errors.poison_request(), errors.worker_lost("w", "gone")], ids=str)
async def test_what_may_do_harm_is_not_sent_again(harm: ServiceError) -> None:
    error = await refusal(harm)

    assert dict(error.trailing_metadata())[PUSHBACK] == "-1"


@pytest.mark.parametrize("elsewhere", [errors.draining(), errors.no_worker(), errors.internal()], ids=str)
async def test_where_another_gateway_may_do_the_librarys_own_backoff_holds(elsewhere: ServiceError) -> None:
    error = await refusal(elsewhere)

    assert PUSHBACK not in dict(error.trailing_metadata())
