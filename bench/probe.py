"""Probes the health of a gateway every millisecond, and tells the longest wait for an answer in milliseconds.

    python -m bench.probe ADDRESS

Prints a line once it probes, and its figure when standard input ends. A process of its own: a bench that makes large
messages would hold up its own probes.
"""

import asyncio
import sys
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


async def probe(address: str) -> None:
    """Probes until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    longest_s = 0.0
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        print("probing", flush=True)
        while not ended.done():
            began = time.perf_counter()
            await stub.Check(health_pb2.HealthCheckRequest())
            longest_s = max(longest_s, time.perf_counter() - began)
            await asyncio.sleep(0.001)
    print(1000 * longest_s, flush=True)


if __name__ == "__main__":
    asyncio.run(probe(sys.argv[1]))
