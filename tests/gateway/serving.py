"""A real gateway on a free port, over fake workers, and a caller of it."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import StatusCode, aio
from grpc_status import rpc_status

from gateway.api.rich_status import DOMAIN
from gateway.config import Config
from gateway.server import Gateway
from gateway.workers.pool.worker_pool import PoolFailed, PoolListener, WorkerAddress
from tests.fakes import PATIENCE_S, FakeWorker
from textserve.v1 import generation_pb2 as pb
from textserve.v1 import generation_pb2_grpc, model_pb2_grpc, tokenization_pb2_grpc

LOCAL = Config(listen="127.0.0.1:0")
Detail = TypeVar("Detail", bound=Message)


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakePool:
    """A pool of fake workers, which the test starts and ends."""

    def __init__(self, *workers: FakeWorker) -> None:
        self.workers = workers
        self.size = len(workers)
        self.stopped_with: list[float] = []
        self.restarts = False
        """Whether it ends a worker that hangs; the test then reports the new one."""
        self.asked_to_replace: list[tuple[str, str]] = []
        """Names of workers that were said to hang, and why."""
        self.failed: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self._listener: PoolListener | None = None

    async def start(self, listener: PoolListener) -> None:
        self._listener = listener
        for number, worker in enumerate(self.workers):
            await worker.start()
            listener.worker_up(WorkerAddress(f"worker-{number}", worker.target))

    def replace(self, address: WorkerAddress, why: str) -> bool:
        self.asked_to_replace.append((address.name, why))
        return self.restarts

    async def stop(self, grace_s: float) -> None:
        self.stopped_with.append(grace_s)
        for worker in self.workers:
            await worker.die()

    async def wait_failed(self) -> NoReturn:
        await self.failed
        raise PoolFailed("unreachable")

    def down(self, number: int) -> None:
        """The process of a worker has ended."""
        assert self._listener
        self._listener.worker_down(f"worker-{number}")

    def up(self, number: int) -> None:
        """A worker listens again."""
        assert self._listener
        self._listener.worker_up(WorkerAddress(f"worker-{number}", self.workers[number].target))


class Caller:
    """Calls a gateway over one channel."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.generation: generation_pb2_grpc.GenerationServiceAsyncStub = generation_pb2_grpc.GenerationServiceStub(
            channel
        )
        self.tokens: tokenization_pb2_grpc.TokenizationServiceAsyncStub = tokenization_pb2_grpc.TokenizationServiceStub(
            channel
        )
        self.models: model_pb2_grpc.ModelServiceAsyncStub = model_pb2_grpc.ModelServiceStub(channel)

    async def generate(self, request: pb.GenerateRequest) -> pb.GenerateResponse:
        return await self.generation.Generate(request)

    async def stream(self, request: pb.GenerateRequest) -> list[pb.StreamGenerateResponse]:
        return [message async for message in self.generation.StreamGenerate(request)]


@dataclass
class Served:
    """A gateway that serves, and what belongs to it."""

    gateway: Gateway
    pool: FakePool
    workers: tuple[FakeWorker, ...]
    clock: FakeClock
    caller: Caller

    @property
    def worker(self) -> FakeWorker:
        return self.workers[0]

    async def nothing_runs(self) -> None:
        """Waits until the gateway has let go of every request, and checks that nothing is left of them."""
        await self.gateway.dispatcher.wait_idle()
        assert self.gateway.dispatcher.queued_count == 0
        assert self.gateway.dispatcher.running_count == 0
        for worker in self.workers:
            await worker.until(lambda worker=worker: worker.row_count == 0)  # type: ignore[misc]


@asynccontextmanager
async def serving(*workers: FakeWorker, ready: bool = True, config: Config = LOCAL) -> AsyncIterator[Served]:
    """Serves with the workers until the test leaves."""
    clock = FakeClock()
    pool = FakePool(*workers)
    gateway = Gateway(config, pool, clock=clock)
    await gateway.start()
    try:
        async with aio.insecure_channel(gateway.address) as channel:
            if ready:
                await gateway.ready.wait()
            yield Served(gateway, pool, workers, clock, Caller(channel))
    finally:
        await gateway.stop(0)


def request(text: str = "ab", *, max_new_tokens: int | None = None) -> pb.GenerateRequest:
    """A request for a continuation of `text`."""
    return pb.GenerateRequest(text=text, generation_config=pb.GenerationConfig(max_new_tokens=max_new_tokens))


def text_of(messages: list[pb.StreamGenerateResponse]) -> str:
    """The concatenated deltas."""
    return "".join(message.delta.text for message in messages if message.HasField("delta"))


async def until_tokens(
    messages: AsyncIterator[pb.StreamGenerateResponse], count: int
) -> list[pb.StreamGenerateResponse]:
    """Reads a stream with token ids until so many tokens of all its candidates have come."""
    received: list[pb.StreamGenerateResponse] = []
    while sum(len(message.delta.token_ids) for message in received) < count:
        received.append(await anext(messages))
    return received


def candidates_of(messages: list[pb.StreamGenerateResponse]) -> list[pb.Candidate]:
    """The candidates that a stream adds up to."""
    candidates: dict[int, pb.Candidate] = {}
    for message in messages:
        match message.WhichOneof("event"):
            case "delta":
                delta = message.delta
                candidate = candidates.setdefault(delta.candidate_index, pb.Candidate())
                candidate.text += delta.text
                candidate.token_ids.extend(delta.token_ids)
                candidate.logprobs.extend(delta.logprobs)
            case "finished":
                end = message.finished
                candidate = candidates.setdefault(end.candidate_index, pb.Candidate())
                candidate.candidate_index = end.candidate_index
                candidate.finish_reason = end.finish_reason
                match end.WhichOneof("ended_by"):
                    case "stop_sequence":
                        candidate.stop_sequence = end.stop_sequence
                    case "stop_token_id":
                        candidate.stop_token_id = end.stop_token_id
                    case None:
                        pass
                candidate.seed = end.seed
            case _:
                pass
    return [candidates[index] for index in sorted(candidates)]


@dataclass(frozen=True)
class Failure:
    """A status with its details."""

    code: StatusCode
    message: str
    status: status_pb2.Status

    @property
    def reason(self) -> str:
        info = self.detail(error_details_pb2.ErrorInfo)
        assert info.domain == DOMAIN
        return str(info.reason)

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.detail(error_details_pb2.ErrorInfo).metadata)

    @property
    def fields(self) -> set[str]:
        return {violation.field for violation in self.detail(error_details_pb2.BadRequest).field_violations}

    def detail(self, kind: type[Detail]) -> Detail:
        name = kind.DESCRIPTOR.full_name
        (packed,) = (packed for packed in self.status.details if packed.TypeName() == name)
        message = kind()
        packed.Unpack(message)
        return message


def failure_of(error: aio.AioRpcError) -> Failure:
    """The status of a failed call; every one has details."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, f"no details: {error.code()} {error.details()}"
    return Failure(error.code(), error.details() or "", status)


async def failing(call: Awaitable[object]) -> Failure:
    """Awaits what must fail, and returns how."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return failure_of(caught.value)


async def to_the_end(
    stream: AsyncIterable[pb.StreamGenerateResponse],
) -> tuple[list[pb.StreamGenerateResponse], aio.AioRpcError]:
    """Reads a stream that must fail: what came before, and how it failed."""
    received: list[pb.StreamGenerateResponse] = []
    try:
        async for message in stream:
            received.append(message)  # noqa: PERF401 - what came before the failure is kept
    except aio.AioRpcError as error:
        return received, error
    raise AssertionError("the stream came to a good end")


async def until(condition: Callable[[], bool]) -> None:
    """Lets others go on until the condition is true; TimeoutError if that takes too long."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await settle()


async def settle() -> None:
    """Lets every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)
