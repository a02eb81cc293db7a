"""A test that is never over, run by test_life_line.py in a pytest of its own: it leaves a gateway and a worker."""

import asyncio
import os
from pathlib import Path

import psutil

from examples.gateway_process import GatewayProcess

TOLD = Path(os.environ["TEXTSERVE_TESTS_TOLD"])


async def test_a_gateway_runs_while_the_test_waits() -> None:
    async with GatewayProcess(["--workers", "1"]) as gateway:
        (worker,) = psutil.Process(gateway.pid).children()
        TOLD.write_text(f"{os.getpid()} {gateway.pid} {worker.pid}\n")  # noqa: ASYNC240 - a test waits for it
        await asyncio.Event().wait()
