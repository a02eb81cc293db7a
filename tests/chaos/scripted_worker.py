"""A worker process without a model: a sequence's tokens follow from its seed alone. It starts in a second.

    python -m tests.chaos.scripted_worker --listen ADDRESS [--exit-with-stdin] [--max-rows N]

SIGTERM drains it, from SIGUSR1 on its engine hangs. TEXTSERVE_CHAOS_RECORD names the folder of the record.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from tests.chaos.recorder import Recorder
from tests.chaos.run_tap import RunTap
from tests.fakes import Context, FakeWorker, ids
from textserve.internal.v1 import worker_pb2 as pb

STEPS_PER_S = 100
STEP_LIMIT_S = 3.0
LETTERS = ids("abcdefghijklmnopqrstuvwxyz ")


def script(submit: pb.Submit) -> Iterator[int]:
    """Letters without an end."""
    chance = random.Random(submit.sequences[0].seed)
    while True:
        yield chance.choice(LETTERS)


class ScriptedWorker(FakeWorker):
    """Steps by itself, beats, drains, and hangs when it is told to."""

    def __init__(self, target: str, max_rows: int, tap: RunTap) -> None:
        super().__init__(script, rows=max_rows, context_length=4096)
        self.target = target
        self.description.incarnation_id = uuid.uuid4().hex
        self.hung_at: float | None = None
        self._tap = tap

    async def Run(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[pb.RunRequest], context: Context
    ) -> AsyncIterator[pb.RunResponse]:
        async for response in self._tap.relay(lambda requests: self._run(requests, context), request_iterator):
            yield response

    async def _run(self, requests: AsyncIterator[pb.RunRequest], context: Context) -> AsyncIterator[pb.RunResponse]:
        # As a real worker does, so that a gateway sends no work to an engine that hangs.
        yield pb.RunResponse(heartbeat=self._heartbeat())
        async for response in FakeWorker.Run(self, requests, context):
            yield response

    async def run_engine(self) -> None:
        """Steps until it is cancelled: late steps do not make those behind them late, unless a whole one was missed."""
        due = time.monotonic()
        while True:
            if self.hung_at is None:
                self.step()
            due = max(due + 1 / STEPS_PER_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def beat_on(self) -> None:
        """Sends a heartbeat every second until it is cancelled."""
        while True:
            self.send(pb.RunResponse(heartbeat=self._heartbeat()))
            await asyncio.sleep(1)

    def hang(self) -> None:
        self.hung_at = time.monotonic()

    async def drained(self) -> None:
        """Takes nothing new, and returns once all that runs has ended."""
        self.drain()
        await self.until(lambda: self.row_count == 0)
        self.end_streams()

    def step(self, count: int = 1) -> None:
        """A token for each row; but of each stream one step at most waits to be sent, as with a real worker."""
        self._steps += count
        self.submits.clear()  # which are for tests, and would grow for hours
        self.cancelled.clear()
        for stream in self.streams:
            if stream.rows and stream.outgoing.empty():
                stream.send(pb.RunResponse(step=stream.engine.step(self._steps)))
        self._change()

    def _heartbeat(self) -> pb.Heartbeat:
        limit, elapsed = Duration(), Duration()
        if self.row_count or self.hung_at is not None:
            limit.FromNanoseconds(int(STEP_LIMIT_S * 1e9))
        if self.hung_at is not None:
            elapsed.FromNanoseconds(int((time.monotonic() - self.hung_at) * 1e9))
        return pb.Heartbeat(
            incarnation_id=self.description.incarnation_id, step=self._steps, step_limit=limit, step_elapsed=elapsed
        )


async def serve(listen: str, max_rows: int) -> None:
    """Serves until SIGTERM, and drains."""
    record = Recorder(Path(os.environ["TEXTSERVE_CHAOS_RECORD"]))
    worker = ScriptedWorker(listen, max_rows, RunTap(record))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, worker.hang)
    await worker.start()
    tasks = [asyncio.create_task(worker.run_engine()), asyncio.create_task(worker.beat_on())]
    sys.stdout.write(f"textserve-worker ready address={listen}\n")
    sys.stdout.flush()
    await stopping.wait()
    await worker.drained()
    for task in tasks:
        task.cancel()
    await worker.die()


def end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    """Runs the worker."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--exit-with-stdin", action="store_true")
    parser.add_argument("--max-rows", type=int, default=32)
    flags, _ = parser.parse_known_args()
    if flags.exit_with_stdin:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(serve(flags.listen, flags.max_rows))


if __name__ == "__main__":
    main()
