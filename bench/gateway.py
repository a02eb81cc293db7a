"""Measures what the gateway adds, with a worker process that only emits tokens and the client in a process of its own.

    python -m bench.gateway [--json] [--rounds N]

- Time to first token: a stream through the gateway, and the same through the worker's own `Run`, in turns.
- Load: 64 streams at 312 steps a second, 20,000 tokens a second: whether every token arrives, and how old it is then.
- Memory: resident memory of the gateway for each of 1,000 streams that wait for their first token.
- Longest hold of the loop: how late a gateway's answer to a health probe is, at most, while large requests come, and
  while 1,000 calls are cancelled at once, most of which wait for one of a worker's 64 rows.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from bench.report import arguments, show
from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1 import worker_pb2_grpc
from textserve.v1 import generation_pb2 as api
from textserve.v1 import generation_pb2_grpc

ADDED_P50_MS = 2.0
AGE_P99_MS = 50.0
ROWS = 64
TOKENS_PER_STREAM = 312 * 15
CALLS = 400
IDLE_STREAMS = 1000
CONNECTIONS = 5
PROMPT = "one two three four"


@dataclass(frozen=True)
class Scene:
    """An emitter, and a gateway attached to it."""

    worker: str
    gateway: str
    gateway_pid: int
    step_times: list[float]
    """When the emitter's steps were made, on the monotonic clock; filled in when the scene ends."""


@asynccontextmanager
async def scene(mode: str, room: int | None = None) -> AsyncIterator[Scene]:
    """Starts an emitter and a gateway; both end with the scene."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "steps.json"
        rows = [] if room is None else ["--room", str(room)]
        emitter = await _start(["-m", "bench.emitter", "--mode", mode, "--log", str(log), *rows])
        worker = (await _line(emitter)).strip()
        flags = ["--listen", "127.0.0.1:0", "--worker", worker, "--log-level", "warning", "--max-queued", "4096"]
        gateway = await _start(["-m", "gateway", *flags])
        address = (await _line(gateway)).split(" ready on ")[1].split()[0]
        at = Scene(worker, address, gateway.pid, step_times=[])
        try:
            yield at
        finally:
            gateway.terminate()
            await gateway.wait()
            assert emitter.stdin is not None
            emitter.stdin.close()
            await emitter.wait()
            at.step_times.extend(json.loads(log.read_text()))


async def _start(command: list[str]) -> asyncio.subprocess.Process:
    root = Path(__file__).parent.parent
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *command, stdin=pipe, stdout=pipe, cwd=root)


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


def request(max_new_tokens: int, *, token_ids: bool = False) -> api.GenerateRequest:
    """Returns a request for that many tokens."""
    return api.GenerateRequest(
        text=PROMPT,
        generation_config=api.GenerationConfig(max_new_tokens=max_new_tokens),
        output_options=api.OutputOptions(token_ids=token_ids),
    )


async def through_gateway(stub: "generation_pb2_grpc.GenerationServiceAsyncStub") -> float:
    """Returns the milliseconds from the call to its first delta."""
    began = time.perf_counter()
    first = began
    async for message in stub.StreamGenerate(request(1)):
        if message.HasField("delta"):
            first = time.perf_counter()
    return 1000 * (first - began)


async def directly(run: "grpc.aio.StreamStreamCall[pb.RunRequest, pb.RunResponse]", sequence_id: int) -> float:
    """Returns the milliseconds from a submission to its step."""
    config = api.GenerationConfig(max_new_tokens=1, temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    sequence = pb.SubmittedSequence(sequence_id=sequence_id)
    submit = pb.Submit(sequences=[sequence], prompt_token_ids=[1, 2, 3, 4], generation_config=config)
    began = time.perf_counter()
    await run.write(pb.RunRequest(submit=submit))
    async for message in run:
        if message.HasField("step"):
            break
    return 1000 * (time.perf_counter() - began)


async def first_tokens() -> list[dict[str, object]]:
    """Measures both ways to a first token, call by call in turns."""
    open_channel = grpc.aio.insecure_channel
    async with scene("instant") as at, open_channel(at.gateway) as public, open_channel(at.worker) as internal:
        stub = generation_pb2_grpc.GenerationServiceStub(public)
        run = worker_pb2_grpc.WorkerServiceStub(internal).Run()
        for number in range(50):
            await through_gateway(stub)
            await directly(run, number)
        both = [(await through_gateway(stub), await directly(run, 50 + number)) for number in range(CALLS)]
        run.cancel()
    gateway, direct = sorted(pair[0] for pair in both), sorted(pair[1] for pair in both)
    p50, p99 = CALLS // 2, CALLS * 99 // 100
    return [
        {"path": "gateway", "p50 ms": gateway[p50], "p99 ms": gateway[p99]},
        {"path": "Run", "p50 ms": direct[p50], "p99 ms": direct[p99]},
        {"path": "added", "p50 ms": gateway[p50] - direct[p50], "p99 ms": gateway[p99] - direct[p99]},
    ]


async def receive(stub: "generation_pb2_grpc.GenerationServiceAsyncStub") -> list[tuple[float, list[int]]]:
    """Reads one stream; returns the time and the token ids of each of its deltas."""
    return [
        (time.monotonic(), list(message.delta.token_ids))
        async for message in stub.StreamGenerate(request(TOKENS_PER_STREAM, token_ids=True))
        if message.HasField("delta")
    ]


async def under_load() -> dict[str, object]:
    """Measures the age of every token at 20,000 tokens a second."""
    async with scene("paced") as at, grpc.aio.insecure_channel(at.gateway) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        began = time.monotonic()
        streams = await asyncio.gather(*(receive(stub) for _ in range(ROWS)))
        seconds = time.monotonic() - began
        busy = psutil.Process(at.gateway_pid).cpu_times()
    tokens = sum(len(ids) for stream in streams for _, ids in stream)
    ages = sorted(1000 * (arrived - at.step_times[i]) for stream in streams for arrived, ids in stream for i in ids)
    return {
        "tokens expected": ROWS * TOKENS_PER_STREAM,
        "tokens arrived": tokens,
        "in order": all(_consecutive([i for _, ids in stream for i in ids]) for stream in streams),
        "tokens/s": tokens / seconds,
        "messages": sum(len(stream) for stream in streams),
        "age p50 ms": ages[len(ages) // 2],
        "age p99 ms": ages[len(ages) * 99 // 100],
        "gateway cores": (busy.user + busy.system) / seconds,
    }


def _consecutive(ids: list[int]) -> bool:
    return ids == list(range(ids[0], ids[0] + len(ids)))


async def idle_memory() -> dict[str, object]:
    """Measures the gateway's memory with many streams that wait."""
    async with scene("silent") as at, contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(own_connection(at.gateway)) for _ in range(CONNECTIONS)]
        stubs = [generation_pb2_grpc.GenerationServiceStub(channel) for channel in channels]
        gateway = psutil.Process(at.gateway_pid)
        before = gateway.memory_info().rss
        calls = [stub.StreamGenerate(request(16)) for stub in stubs for _ in range(IDLE_STREAMS // CONNECTIONS)]
        # They say nothing while they wait: what came after them and has ended shows that they have been taken.
        last = request(16)
        last.generation_config.max_time.FromSeconds(1)
        await asyncio.gather(*(stub.Generate(last) for stub in stubs))
        after = gateway.memory_info().rss
        for call in calls:
            call.cancel()
    return {"streams": IDLE_STREAMS, "KiB per stream": (after - before) / 1024 / IDLE_STREAMS}


def large_requests() -> dict[str, api.GenerateRequest]:
    """Requests of up to four megabytes, some of them with more than they may have."""
    config = api.GenerationConfig(max_new_tokens=1)
    return {
        "4 MB of text": api.GenerateRequest(text="ab cd " * 690_000, truncate_prompt=8, generation_config=config),
        "1 M token ids": api.GenerateRequest(
            tokens=api.TokenPrompt(ids=[5] * (1 << 20)), truncate_prompt=8, generation_config=config
        ),
        "4 M token ids": api.GenerateRequest(tokens=api.TokenPrompt(ids=[5] * 4_000_000), truncate_prompt=8),
        "2 M stop sequences": api.GenerateRequest(text=PROMPT, stop_sequences=[""] * 2_000_000),
        "4 M suppressed tokens": api.GenerateRequest(
            text=PROMPT, generation_config=api.GenerationConfig(suppress_tokens=[5] * 4_000_000)
        ),
    }


async def longest_holds() -> list[dict[str, object]]:
    """Measures what a health probe waits for while eight requests of a kind come at once, from a process of its own."""
    rows: list[dict[str, object]] = []
    async with scene("instant") as at, own_connection(at.gateway) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        for name, large in large_requests().items():
            prober = await _start(["-m", "bench.probe", at.gateway])
            await _line(prober)
            calls = [stub.Generate(large) for _ in range(8)]
            await asyncio.gather(*calls, return_exceptions=True)
            assert prober.stdin is not None
            prober.stdin.close()
            rows.append({"requests": f"8 x {name}", "longest hold of the loop ms": float(await _line(prober))})
            await prober.wait()
    return rows


async def hold_of_cancels() -> dict[str, object]:
    """Measures the same while 1,000 calls are cancelled at once: 64 that run, and all that wait behind them."""
    async with scene("silent", room=ROWS) as at, contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(own_connection(at.gateway)) for _ in range(CONNECTIONS)]
        stubs = [generation_pb2_grpc.GenerationServiceStub(channel) for channel in channels]
        calls = [stub.StreamGenerate(request(16)) for stub in stubs for _ in range(IDLE_STREAMS // CONNECTIONS)]
        # What comes after them and has ended shows that they have been taken, or have left.
        last = request(16)
        last.generation_config.max_time.FromSeconds(1)
        await asyncio.gather(*(stub.Generate(last) for stub in stubs))
        prober = await _start(["-m", "bench.probe", at.gateway])
        await _line(prober)
        for call in calls:
            call.cancel()
        await asyncio.gather(*(stub.Generate(last) for stub in stubs))
        assert prober.stdin is not None
        prober.stdin.close()
        longest_ms = float(await _line(prober))
        await prober.wait()
    return {"requests": f"{IDLE_STREAMS:,} calls that are cancelled", "longest hold of the loop ms": longest_ms}


def own_connection(target: str) -> grpc.aio.Channel:
    """A channel that shares its connection with no other one: each takes a few hundred calls."""
    return grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])


def median_row(rows: list[dict[str, object]], key: str) -> dict[str, object]:
    """Returns the row with the median value of a column."""
    return sorted(rows, key=lambda row: float(str(row[key])))[(len(rows) - 1) // 2]


async def measure(rounds: int) -> tuple[dict[str, list[dict[str, object]]], dict[str, bool]]:
    """Runs everything; returns the tables and the checks."""
    firsts = [await first_tokens() for _ in range(rounds)]
    added = statistics.median(float(str(rows[2]["p50 ms"])) for rows in firsts)
    loads = [await under_load() for _ in range(rounds)]
    load = median_row(loads, "age p99 ms")
    memory = await idle_memory()
    tables = {"time to first token": firsts[rounds // 2], "20,000 tokens/s": [load], "idle streams": [memory]}
    cancels = [await hold_of_cancels() for _ in range(rounds)]
    cancelled = median_row(cancels, "longest hold of the loop ms")
    tables["longest hold of the loop"] = [*await longest_holds(), cancelled]
    checks = {
        f"added time to first token at most {ADDED_P50_MS} ms": added <= ADDED_P50_MS,
        "every token arrives, in order": all(row["tokens arrived"] == row["tokens expected"] for row in loads)
        and all(bool(row["in order"]) for row in loads),
        f"p99 age of a token at most {AGE_P99_MS} ms": float(str(load["age p99 ms"])) <= AGE_P99_MS,
    }
    return tables, checks


def main() -> int:
    """Runs the bench."""
    flags = arguments(__doc__ or "")
    tables, checks = asyncio.run(measure(flags.rounds))
    return show("gateway", tables, checks, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
