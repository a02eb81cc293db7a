"""Counts what one stream of 2 candidates x 8 tokens costs the gateway's event loop in Python calls, and many cancels.

    python -m bench.path [--json] [--rounds N]

The gateway runs in this process, its worker is the emitter of `bench.gateway`, and the caller is on a thread of its
own, so that `sys.setprofile` on the loop's thread sees the gateway alone: the files and functions of `gateway/` that
are entered, the calls of them, how often one of them calls one of another file, and all Python calls, those of
libraries included. Counts, unlike times, are the same on every machine, but for the odd heartbeat: the emitter's steps
are so slow that no two of them come together.

Then 1,000 calls are cancelled in one turn of the loop: 64 that run and those that wait behind them. The figure is the
CPU time of the loop's thread until all have left.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import grpc

from bench.report import arguments, show
from gateway.config import Config
from gateway.server import Gateway
from gateway.workers.pool.static import StaticPool
from textserve.v1 import generation_pb2 as api
from textserve.v1 import generation_pb2_grpc

ROOT = Path(__file__).parent.parent
GATEWAY = f"{ROOT / 'gateway'}/"
CANDIDATES, TOKENS = 2, 8
STEPS_PER_S = 50
CALLS, ROWS = 1000, 64


@dataclass
class Counts:
    """What was called on the thread that profiled."""

    files: set[str] = field(default_factory=set[str])
    functions: set[CodeType] = field(default_factory=set[CodeType])
    gateway_calls: int = 0
    crossings: int = 0
    calls: int = 0

    def see(self, frame: FrameType, event: str, _: object) -> None:
        """As `sys.setprofile` calls it."""
        if event != "call":
            return
        self.calls += 1
        name = frame.f_code.co_filename
        if not name.startswith(GATEWAY):
            return
        self.gateway_calls += 1
        self.files.add(name)
        self.functions.add(frame.f_code)
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        self.crossings += caller.startswith(GATEWAY) and caller != name


@contextmanager
def counted() -> Iterator[Counts]:
    """Counts the calls of this thread."""
    counts = Counts()
    sys.setprofile(counts.see)
    try:
        yield counts
    finally:
        sys.setprofile(None)


def stream(address: str) -> int:
    """Makes the call; returns the number of tokens that came."""
    config = api.GenerationConfig(
        max_new_tokens=TOKENS, num_return_sequences=CANDIDATES, do_sample=True, seed=1, temperature=1.0
    )
    request = api.GenerateRequest(
        text="one two three four", generation_config=config, output_options=api.OutputOptions(token_ids=True)
    )
    with grpc.insecure_channel(address) as channel:
        messages = generation_pb2_grpc.GenerationServiceStub(channel).StreamGenerate(request)
        return sum(len(message.delta.token_ids) for message in messages)


@asynccontextmanager
async def serving(*flags: str, max_queued: int = CALLS) -> AsyncIterator[Gateway]:
    """Runs a gateway in this process over an emitter in a process of its own."""
    with tempfile.NamedTemporaryFile() as log:
        pipe = asyncio.subprocess.PIPE
        command = ["-m", "bench.emitter", "--log", log.name, *flags]
        emitter = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=pipe, stdout=pipe, cwd=ROOT)
        assert emitter.stdin is not None
        assert emitter.stdout is not None
        worker = (await emitter.stdout.readline()).decode().strip()
        gateway = Gateway(Config(listen="127.0.0.1:0", worker=(worker,), max_queued=max_queued), StaticPool((worker,)))
        await gateway.start()
        await gateway.ready.wait()
        try:
            yield gateway
        finally:
            await gateway.stop(0)
            emitter.stdin.close()
            await emitter.wait()


async def measure(rounds: int) -> list[Counts]:
    """Counts one stream, so many times."""
    results = []
    async with serving("--mode", "paced", "--pace", str(STEPS_PER_S)) as gateway:
        await asyncio.to_thread(stream, gateway.address)
        for _ in range(rounds):
            with counted() as counts:
                tokens = await asyncio.to_thread(stream, gateway.address)
            assert tokens == CANDIDATES * TOKENS
            results.append(counts)
    return results


class Caller:
    """The side of a call whose caller takes what comes."""

    async def write(self, message: api.StreamGenerateResponse) -> None:
        """Takes a message."""

    def time_remaining(self) -> float | None:
        """It has no deadline."""
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """It says nothing of itself."""
        return ()


async def until(holds: Callable[[], bool]) -> None:
    """Lets the loop turn until something holds."""
    while not holds():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)


async def cancels() -> float:
    """Returns the milliseconds that the loop's thread works when all calls are cancelled in one turn."""
    request = api.GenerateRequest(text="one two three four", generation_config=api.GenerationConfig(max_new_tokens=8))
    async with serving("--mode", "silent", "--room", str(ROWS)) as gateway:
        calls = [
            asyncio.create_task(gateway.generation.StreamGenerate(request, Caller()))  # type: ignore[arg-type]
            for _ in range(CALLS)
        ]
        await until(lambda: gateway.dispatcher.queued_count == CALLS - ROWS)
        began = time.thread_time()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await until(lambda: not gateway.dispatcher.running_count)
        return 1000 * (time.thread_time() - began)


def main() -> int:
    """Runs the bench."""
    flags = arguments(__doc__ or "")
    counts = asyncio.run(measure(max(3, flags.rounds)))
    row: dict[str, object] = {
        "gateway files": statistics.median(len(each.files) for each in counts),
        "functions": statistics.median(len(each.functions) for each in counts),
        "calls of them": statistics.median(each.gateway_calls for each in counts),
        "from file to file": statistics.median(each.crossings for each in counts),
        "all Python calls": statistics.median(each.calls for each in counts),
    }
    held = [asyncio.run(cancels()) for _ in range(max(3, flags.rounds))]
    tables: dict[str, list[dict[str, object]]] = {
        f"one stream, {CANDIDATES} x {TOKENS} tokens": [row],
        "cancelled at once": [{"calls": CALLS, "running": ROWS, "loop ms": statistics.median(held)}],
    }
    return show("path", tables, {}, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
