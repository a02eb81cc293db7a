"""Every exception of a handler gets a status, and none of them tells internals."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import StatusCode, aio

from gateway.errors import Code, ServiceError
from gateway.interceptors import DecodeGuard, ErrorMapping
from tests.gateway.serving import failing


@asynccontextmanager
async def raising(error: BaseException) -> AsyncIterator[aio.UnaryUnaryMultiCallable[bytes, bytes]]:
    """A server whose only method raises."""

    async def behavior(request: bytes, context: object) -> bytes:
        raise error

    method = grpc.unary_unary_rpc_method_handler(behavior, bytes, bytes)
    server = aio.server(interceptors=(ErrorMapping(), DecodeGuard(100)))
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
