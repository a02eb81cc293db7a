"""A program that runs a pool of workers and nothing else, to be killed: `pool_parent.py LOOP MODE_FILE`."""

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from gateway.workers.pool.embedded import EmbeddedPool
from gateway.workers.pool.worker_pool import WorkerAddress

WORKER = Path(__file__).with_name("pool_worker.py")
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Reporter:
    """Writes what the pool reports to stdout."""

    def worker_up(self, address: WorkerAddress) -> None:
        say("up")

    def worker_down(self, name: str) -> None:
        say("down")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(mode: str) -> None:
    pool = EmbeddedPool([sys.executable, str(WORKER), "--mode", mode], 2)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, say, "interrupted")
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    await pool.start(Reporter())
    await stopping.wait()
    await pool.stop(grace_s=60)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
        runner.run(main(sys.argv[2]))
