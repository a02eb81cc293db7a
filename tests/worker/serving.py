"""A worker on a real gRPC server, with the real engine and a fake model, and gateways that attach to it."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from tests.worker.fake_model import LIMITS, VOCAB_SIZE, FakeModel, Gate, expected, fake_engine
from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1 import worker_pb2_grpc
from textserve.v1 import generation_pb2
from worker.engine.engine import Engine
from worker.loading.checkpoint.tokenizer_files import TokenizerFiles
from worker.server import SERVER_OPTIONS, listen
from worker.service.service import WorkerService, prefetch

ROWS = LIMITS.max_rows
ROOM = ROWS + prefetch(ROWS)
TOKENIZER = TokenizerFiles(b"t" * (3 << 20), "{{ x }}", {"bos_token": "<s>"}, clean_up_tokenization_spaces=False)
DESCRIPTION = pb.DescribeResponse(model="fake", vocab_size=VOCAB_SIZE, incarnation_id="me", max_rows=ROWS)
LIMIT_S = 300  # for what never comes
GREEDY = generation_pb2.GenerationConfig(temperature=1.0, top_p=1.0, typical_p=1.0, repetition_penalty=1.0)


def submission(number: int, prompt: list[int], max_new_tokens: int, **changes: Any) -> pb.RunRequest:
    config = generation_pb2.GenerationConfig(**changes)
    config.max_new_tokens = max_new_tokens
    merged = generation_pb2.GenerationConfig()
    merged.MergeFrom(GREEDY)
    merged.MergeFrom(config)
    return pb.RunRequest(
        submit=pb.Submit(
            sequences=[pb.SubmittedSequence(sequence_id=number, seed=1)],
            prompt_token_ids=prompt,
            generation_config=merged,
        )
    )


async def read_or_end(call: Any) -> pb.RunResponse | None:
    """Reads one message; None at the end of the stream, whatever its status."""
    try:
        return await call.read() or None  # gRPC's own mark for the end is false, a message never
    except grpc.aio.AioRpcError:
        return None


@dataclass
class Gateway:
    """The other end of a Run stream, and everything that it was told."""

    channel: grpc.aio.Channel
    tokens: dict[int, list[int]] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    finishes: dict[int, pb.SequenceFinish] = field(default_factory=dict)
    beats: list[pb.Heartbeat] = field(default_factory=list)
    limit: int = 0
    is_told_to_drain: bool = False

    def __post_init__(self) -> None:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(self.channel)
        self.call = stub.Run()

    async def submit(self, number: int, prompt: list[int], max_new_tokens: int, **changes: Any) -> None:
        await self.call.write(submission(number, prompt, max_new_tokens, **changes))

    async def cancel(self, *sequence_ids: int) -> None:
        await self.call.write(pb.RunRequest(cancel=pb.Cancel(sequence_ids=sequence_ids)))

    async def demand(self, queued_count: int) -> None:
        await self.call.write(pb.RunRequest(demand=pb.Demand(queued_count=queued_count)))

    async def until(self, condition: Callable[[], object]) -> None:
        """Reads until the condition holds."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                message = await read_or_end(self.call)
                assert message, "the stream has ended"
                self._note(message)

    async def until_ended(self, *sequence_ids: int) -> None:
        await self.until(lambda: self.finishes.keys() >= set(sequence_ids))

    async def until_end_of_stream(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            while message := await read_or_end(self.call):
                self._note(message)

    def _note(self, message: pb.RunResponse) -> None:
        match message.WhichOneof("message"):
            case "step":
                self._note_step(message.step)
            case "credits":
                self.limit = message.credits.sequence_limit
            case "heartbeat":
                self.beats.append(message.heartbeat)
            case "draining":
                self.is_told_to_drain = True

    def _note_step(self, step: pb.Step) -> None:
        for number, token in zip(step.sequence_ids, step.token_ids, strict=True):
            assert number not in self.finishes, "a token after the finish"
            self.tokens.setdefault(number, []).append(token)
        self.starts.extend(start.sequence_id for start in step.starts)
        for finish in step.finishes:
            assert finish.sequence_id not in self.finishes, "two finishes"
            self.finishes[finish.sequence_id] = finish

    def check(self, number: int, prompt: list[int], count: int) -> None:
        """The sequence has all its tokens, one start and its finish by length."""
        assert self.tokens[number] == expected(prompt, count)
        assert self.starts.count(number) == 1
        assert self.finishes[number].reason == pb.SEQUENCE_FINISH_REASON_LENGTH


@dataclass
class Worker:
    """A worker that serves, and its engine's gate."""

    service: WorkerService
    engine: Engine
    gate: Gate
    target: str
    stack: AsyncExitStack

    async def channel(self) -> grpc.aio.Channel:
        return await self.stack.enter_async_context(grpc.aio.insecure_channel(self.target))

    async def stub(self) -> Any:
        return worker_pb2_grpc.WorkerServiceStub(await self.channel())

    async def new_gateway(self) -> Gateway:
        """Returns a new gateway that has heard nothing yet."""
        return Gateway(await self.channel())

    async def gateway(self) -> Gateway:
        """Returns a new gateway that has been granted its room."""
        gateway = await self.new_gateway()
        await gateway.until(lambda: gateway.limit and gateway.beats)
        return gateway

    async def gateways(self, count: int) -> list[Gateway]:
        return [await self.gateway() for _ in range(count)]

    async def held(self) -> None:
        """Waits until the engine stands at its gate."""
        await asyncio.to_thread(self.gate.wait_until_held)

    @property
    def held_sequences(self) -> set[int]:
        """What the service still knows, of all gateways."""
        return {number for connection in self.service._connections.values() for number in connection.sequences}


async def until(condition: Callable[[], object]) -> None:
    """Waits for a condition of another thread's or of the loop's state."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(*, held: bool = False, max_rows: int = ROWS, heartbeat: bool = False) -> AsyncIterator[Worker]:
    gate = Gate()
    if not held:
        gate.allow(math.inf)
    engine = fake_engine(FakeModel(gate), limits=replace(LIMITS, max_rows=max_rows))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    service = WorkerService(DESCRIPTION, TOKENIZER, engine)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    target = listen(server, "127.0.0.1:0")
    service.start()
    await server.start()
    async with AsyncExitStack() as stack:
        try:
            yield Worker(service, engine, gate, target, stack)
        finally:
            gate.allow(math.inf)
            await server.stop(grace=0)
            service.stop(LIMIT_S)
