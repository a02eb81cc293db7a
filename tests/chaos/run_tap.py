"""Records what goes over a worker's Run streams, whichever worker it is."""

import itertools
import os
from collections.abc import AsyncIterator, Callable

from tests.chaos.events import Beat, Closed, Dropped, Granted, Stepped, Submitted
from tests.chaos.recorder import Recorder, now
from textserve.internal.v1 import worker_pb2 as pb

Requests = AsyncIterator[pb.RunRequest]
Responses = AsyncIterator[pb.RunResponse]


class RunTap:
    """Stands between a worker's service and its gateways."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._worker = os.getpid()
        self._numbers = itertools.count()

    async def relay(self, run: Callable[[Requests], Responses], requests: Requests) -> Responses:
        """Runs one stream."""
        stream = next(self._numbers)
        try:
            async for response in run(self._requests(stream, requests)):
                self._said(stream, response)
                yield response
        finally:
            self._record(Closed(now(), self._worker, stream))

    async def _requests(self, stream: int, requests: Requests) -> Requests:
        async for request in requests:
            self._heard(stream, request)
            yield request

    def _heard(self, stream: int, request: pb.RunRequest) -> None:
        if request.HasField("cancel"):
            self._record(Dropped(now(), self._worker, stream, tuple(request.cancel.sequence_ids)))
        for each in request.submit.sequences:
            held = tuple(each.output_token_ids)
            self._record(Submitted(now(), self._worker, stream, each.sequence_id, each.seed, held))

    def _said(self, stream: int, response: pb.RunResponse) -> None:
        match response.WhichOneof("message"):
            case "credits":
                self._record(Granted(now(), self._worker, stream, response.credits.sequence_limit))
            case "heartbeat":
                busy = response.heartbeat.HasField("step_limit") and response.heartbeat.step_limit.ToNanoseconds() > 0
                self._record(Beat(now(), self._worker, busy))
            case "step":
                step = response.step
                finished = tuple(each.sequence_id for each in step.finishes)
                self._record(
                    Stepped(now(), self._worker, stream, tuple(step.sequence_ids), tuple(step.token_ids), finished)
                )
            case _:
                pass
