"""Health v1: "" tells that the process lives, the names of the services whether they can answer.

grpcio-health-checking has a servicer, too; that one forgets its other watchers when one of them leaves, and its watches
never end, so that a shutdown would wait for them as long as it may.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from textserve.v1 import generation_pb2, model_pb2, tokenization_pb2

from ..domain.errors import unknown_service

SERVICES = (
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    tokenization_pb2.DESCRIPTOR.services_by_name["TokenizationService"].full_name,
)
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
Context = aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):
    """Publishes whether there is a worker, and in the end that there is no more service."""

    def __init__(self) -> None:
        self._ready = False
        self._shut_down = False
        self._changed = asyncio.Event()

    def tell(self, *, ready: bool) -> None:
        """There is a worker, or there is none."""
        self._ready = ready
        self._wake()

    def shut_down(self) -> None:
        """Not serving, for good. Watches end once they have said so."""
        self._shut_down = True
        self._wake()

    async def Check(  # noqa: N802 - gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> health_pb2.HealthCheckResponse:
        """Answers with the status of a service; NOT_FOUND for an unknown one."""
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            raise unknown_service(request.service)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802 - gRPC's name
        """Answers with the status of a service, and again whenever it has changed."""
        async for status in self._statuses(request.service):
            await context.write(health_pb2.HealthCheckResponse(status=status))

    async def _statuses(self, service: str) -> AsyncIterator[int]:
        told: int | None = None
        while True:
            changed, status = self._changed, self._status(service)
            if status != told:
                told = status
                yield status
            if self._shut_down:
                return
            await changed.wait()

    def _status(self, service: str) -> int:
        if service == "":
            return NOT_SERVING if self._shut_down else SERVING
        if service not in SERVICES:
            return SERVICE_UNKNOWN
        return SERVING if self._ready and not self._shut_down else NOT_SERVING

    def _wake(self) -> None:
        # Each change has its own event, so that every watch wakes once, however long it takes to write.
        self._changed.set()
        self._changed = asyncio.Event()
