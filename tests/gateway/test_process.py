"""The gateway as a process: its ready line, its signals, its exit status."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from tests.fakes import FakeWorker
from tests.gateway.serving import Caller, failure_of, request, text_of, to_the_end
from textserve.v1 import generation_pb2 as pb

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def process(*flags: str) -> AsyncIterator[Process]:
    """A gateway of its own, ended with the test."""
    command = [sys.executable, "-m", "gateway", "--listen", "127.0.0.1:0", *flags]
    running = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}, stdout=PIPE, stderr=PIPE
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


@asynccontextmanager
async def fake_worker() -> AsyncIterator[FakeWorker]:
    worker = FakeWorker()
    await worker.start()
    beating = asyncio.create_task(worker.keep_beating())
    try:
        yield worker
    finally:
        beating.cancel()
        await worker.die()


async def ready_line(running: Process) -> str:
    assert running.stdout
    return (await running.stdout.readline()).decode()


@asynccontextmanager
async def running_stream(
    line: str, worker: FakeWorker
) -> AsyncIterator["aio.UnaryStreamCall[pb.GenerateRequest, pb.StreamGenerateResponse]"]:
    address = line.split()[3]
    async with aio.insecure_channel(address) as channel:
        call = Caller(channel).generation.StreamGenerate(request(max_new_tokens=3))
        await worker.until(lambda: worker.row_count == 1)
        yield call


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_lets_what_runs_finish(number: signal.Signals) -> None:
    async with fake_worker() as worker, process("--worker", worker.target) as running:
        line = await ready_line(running)
        assert line.startswith("textserve-gateway ready on 127.0.0.1:")
        assert line.endswith(" model=tutor workers=1\n")
        async with running_stream(line, worker) as call:
            running.send_signal(number)
            worker.step(3)

            assert text_of([message async for message in call]) == "aba"
            assert await running.wait() == 0
        assert await ready_line(running) == ""


async def test_the_second_signal_ends_at_once() -> None:
    async with fake_worker() as worker, process("--worker", worker.target, "--grace", "3600") as running:
        line = await ready_line(running)
        async with running_stream(line, worker) as call:
            running.send_signal(signal.SIGTERM)
            await _logged(running, "shutting down")
            running.send_signal(signal.SIGTERM)

            _, error = await to_the_end(call)
            assert failure_of(error).reason == "DRAINING"
            assert await running.wait() == 128 + signal.SIGTERM


async def test_an_address_that_is_taken_is_one_clear_line_and_exit_status_1() -> None:
    async with fake_worker() as worker, process("--worker", worker.target) as first:
        address = (await ready_line(first)).split()[3]
        async with process("--worker", worker.target, "--listen", address) as second:
            out, err = await second.communicate()

            assert second.returncode == 1
            assert out == b""
            lines = [line for line in err.decode().splitlines() if line.startswith("textserve-gateway: ")]
            assert lines == [f"textserve-gateway: can't listen on {address}: it is taken, or no address here"]


async def test_a_gateway_loads_no_torch() -> None:
    code = "import sys, gateway.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    )

    assert await running.wait() == 0


async def _logged(running: Process, text: str) -> None:
    assert running.stderr
    while text not in (line := (await running.stderr.readline()).decode()):
        assert line, "the process ended"
