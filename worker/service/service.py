"""The worker's gRPC service: moves messages between gateways and the engine thread."""

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable

import grpc
from google.protobuf.message import DecodeError

from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1 import worker_pb2_grpc

from ..engine.engine import Engine
from ..engine.engine_thread import Clock, Emission, EngineThread, PromptReport, StepReport
from ..loading.checkpoint.tokenizer_files import TokenizerFiles
from . import messages, submission
from .connection import Connection, share

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
Context = grpc.aio.ServicerContext[object, object]


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """Serves any number of gateways over one engine. Lives on the event loop."""

    def __init__(
        self, description: pb.DescribeResponse, tokenizer: TokenizerFiles, engine: Engine, clock: Clock = time.monotonic
    ) -> None:
        """Prepares the service; the engine belongs to its thread once `start` is called."""
        self.description = description
        self.tokenizer = tokenizer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.engine_died = asyncio.Event()
        """Set when the engine cannot go on: the process must be replaced."""
        self._engine = EngineThread(engine, self._deliver_from_thread, clock, self._note_death_from_thread)
        max_rows = engine.scheduler.limits.max_rows
        self._room = max_rows + prefetch(max_rows)
        self._connections: dict[int, Connection] = {}
        self._owners = itertools.count()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Starts the engine's thread."""
        self._engine.start()

    def stop(self, patience_s: float) -> bool:
        """Ends the engine's thread after its step under way; returns whether that came within `patience_s` seconds."""
        return self._engine.stop(patience_s)

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:  # noqa: ARG002, N802 - gRPC's signature
        """Tells what this worker holds."""
        return self.description

    async def GetTokenizer(  # noqa: N802 - gRPC's name
        self,
        request: pb.GetTokenizerRequest,  # noqa: ARG002 - gRPC's signature
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> AsyncIterator[pb.GetTokenizerResponse]:
        """Sends the tokenizer in parts."""
        yield pb.GetTokenizerResponse(info=messages.tokenizer_info(self.tokenizer))
        for chunk in self.tokenizer.chunks():
            yield pb.GetTokenizerResponse(chunk=chunk)

    async def Run(  # noqa: N802 - gRPC's name
        self,
        request_iterator: AsyncIterator[pb.RunRequest],
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> AsyncIterator[pb.RunResponse]:
        """Serves one gateway until either side ends the stream."""
        connection = Connection(next(self._owners))
        self._connections[connection.owner] = connection
        # Before the first credits, so that a gateway does not send work to an engine that hangs.
        connection.send(self._heartbeat())
        self._share_room()
        if self._draining:
            connection.send(pb.RunResponse(draining=pb.Draining()))
        reader = asyncio.create_task(self._read(connection, request_iterator))
        try:
            async for message in connection.messages():
                yield message
        finally:
            reader.cancel()
            self._disconnect(connection)

    def _deliver_from_thread(self, report: StepReport) -> None:
        self._loop.call_soon_threadsafe(self._deliver, report)

    def _note_death_from_thread(self) -> None:
        self._loop.call_soon_threadsafe(self.engine_died.set)

    def _deliver(self, report: StepReport) -> None:
        emissions: dict[int, list[Emission]] = defaultdict(list)
        prompts: dict[int, list[PromptReport]] = defaultdict(list)
        for emission in report.emissions:
            emissions[emission.owner].append(emission)
        for prompt in report.prompts:
            prompts[prompt.owner].append(prompt)
        for owner in emissions.keys() | prompts.keys():
            if connection := self._connections.get(owner):
                connection.deliver(report.step, emissions[owner], prompts[owner])
        if any(emission.finish is not None for emission in report.emissions):
            self._share_room()
            self._note_idle()

    async def beat(self) -> None:
        """Sends heartbeats until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for connection in self._connections.values():
                connection.send(self._heartbeat())

    async def drain(self) -> None:
        """Grants nothing more, and returns once all that runs has ended; the streams end when that has been taken."""
        self._draining = True
        for connection in self._connections.values():
            connection.send(pb.RunResponse(draining=pb.Draining()))
        self._share_room()
        await self._idle.wait()
        for connection in self._connections.values():
            connection.close()

    async def _read(self, connection: Connection, requests: AsyncIterator[pb.RunRequest]) -> None:
        try:
            async for request in requests:
                self._obey(connection, request)
        except DecodeError as error:
            logger.warning("a gateway sent what is no message; its stream ends: %s", error)
        finally:
            connection.close()

    def _obey(self, connection: Connection, request: pb.RunRequest) -> None:
        match request.WhichOneof("message"):
            case "submit":
                self._submit(connection, request.submit)
            case "cancel":
                self._cancel(connection, request.cancel.sequence_ids)
            case "demand":
                connection.queued_count = max(0, request.demand.queued_count)
                self._share_room()
            case _:
                logger.warning("a gateway sent a message of a kind that is not known here; ignored")

    def _submit(self, connection: Connection, submit: pb.Submit) -> None:
        try:
            roots = submission.roots(
                submit,
                owner=connection.owner,
                vocab_size=self.description.vocab_size,
                eos_token_ids=self.description.eos_token_ids,
                max_rows=self.description.max_rows,
            )
            connection.add(roots)
        except ValueError as error:
            logger.warning("refused a submission: %s", error)
            for candidate in submit.sequences:
                connection.finish(messages.failure(candidate.sequence_id, "INVALID_SUBMISSION"))
            return
        self._idle.clear()
        for root in roots:
            self._engine.submit(root)

    def _cancel(self, connection: Connection, sequence_ids: Iterable[int]) -> None:
        self._engine.cancel(connection.drop(sequence_ids))
        self._share_room()
        self._note_idle()

    def _disconnect(self, connection: Connection) -> None:
        del self._connections[connection.owner]
        self._engine.cancel(connection.drop(list(connection.sequences)))
        self._share_room()
        self._note_idle()

    def _share_room(self) -> None:
        demands = {owner: connection.demand for owner, connection in self._connections.items()}
        shares = dict.fromkeys(demands, 0) if self._draining else share(self._room, demands)
        for owner, sequence_limit in shares.items():
            self._connections[owner].grant(sequence_limit)

    def _note_idle(self) -> None:
        if not any(connection.sequences for connection in self._connections.values()):
            self._idle.set()

    def _heartbeat(self) -> pb.RunResponse:
        return messages.heartbeat(self._engine.progress, self.description.incarnation_id, self._clock())


def prefetch(max_rows: int) -> int:
    """Returns how many sequences may wait here, so that a row that falls free is taken without a round trip."""
    return max(1, max_rows // 4)
