"""ModelService: what this gateway serves."""

from typing import Any

from grpc import aio

from textserve.v1 import model_pb2, model_pb2_grpc

from ..dispatch.dispatcher import Dispatcher
from ..domain.served_model import Models
from .messages import write_model

Context = aio.ServicerContext[Any, Any]


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Lists the model of the pool, once a worker has told it."""

    def __init__(self, models: Models, dispatcher: Dispatcher) -> None:
        self._models = models
        self._dispatcher = dispatcher

    async def ListModels(  # noqa: N802 - gRPC's name
        self,
        request: model_pb2.ListModelsRequest,  # noqa: ARG002 - gRPC's signature
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> model_pb2.ListModelsResponse:
        """Lists what is served; empty until a worker has been ready."""
        model = self._models.current
        models = [write_model(model, self._dispatcher.worker_count)] if model else []
        return model_pb2.ListModelsResponse(models=models)
