"""Counts what one stream of 2 candidates x 8 tokens costs the gateway's event loop in Python calls.

    python -m bench.path [--json] [--rounds N]

The gateway runs in this process, its worker is the emitter of `bench.gateway`, and the caller is on a thread of its
own, so that `sys.setprofile` on the loop's thread sees the gateway alone: the files and functions of `gateway/` that
are entered, the calls of them, how often one of them calls one of another file, and all Python calls, those of
libraries included. Counts, unlike times, are the same on every machine, but for the odd heartbeat.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


async def measure(rounds: int) -> list[Counts]:
    """Counts one stream, so many times."""
    results = []
    with tempfile.NamedTemporaryFile() as log:
        pipe = asyncio.subprocess.PIPE
        command = ["-m", "bench.emitter", "--mode", "paced", "--log", log.name]
        emitter = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=pipe, stdout=pipe, cwd=ROOT)
        assert emitter.stdin is not None
        assert emitter.stdout is not None
        worker = (await emitter.stdout.readline()).decode().strip()
        gateway = Gateway(Config(listen="127.0.0.1:0", worker=(worker,)), StaticPool((worker,)))
        await gateway.start()
        await gateway.ready.wait()
        await asyncio.to_thread(stream, gateway.address)
        for _ in range(rounds):
            with counted() as counts:
                tokens = await asyncio.to_thread(stream, gateway.address)
            assert tokens == CANDIDATES * TOKENS
            results.append(counts)
        await gateway.stop(0)
        emitter.stdin.close()
        await emitter.wait()
    return results


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
    return show("path", {f"one stream, {CANDIDATES} x {TOKENS} tokens": [row]}, {}, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
