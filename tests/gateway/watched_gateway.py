"""A gateway as a process whose event loop is watched: how much of its own CPU time each of its turns takes.

    python -m tests.gateway.watched_gateway WORKER [--planted]

Prints its address, then, for each line on standard input, the longest turn since the last one, in milliseconds. What
protobuf's parser takes does not count. With `--planted` no work is left to threads.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from typing import Any

from gateway.api.interceptors import CallInterceptor
from gateway.api.wire import Walk
from gateway.config import Config
from gateway.request import preprocess
from gateway.server import Gateway
from gateway.workers.pool.static import StaticPool

MAX_MESSAGE_BYTES = 2 << 20


class Watch:
    """The longest turn so far."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._aside_s = 0.0

    def turn(self, run: Callable[[], None]) -> None:
        """Runs one."""
        self._aside_s = 0.0
        began = time.thread_time()
        run()
        self.longest_s = max(self.longest_s, time.thread_time() - began - self._aside_s)

    def aside(self, work: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """Work whose time does not count."""

        def timed(data: bytes) -> Any:
            began = time.thread_time()
            try:
                return work(data)
            finally:
                self._aside_s += time.thread_time() - began

        return timed


class WatchedLoop(asyncio.SelectorEventLoop):
    """Tells its turns to a watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def _run_once(self) -> None:
        self._watch.turn(super()._run_once)  # type: ignore[misc]


async def serve(worker: str, watch: Watch) -> None:
    """Serves until standard input ends."""
    config = Config(listen="127.0.0.1:0", worker=(worker,), max_message_bytes=MAX_MESSAGE_BYTES)
    gateway = Gateway(config, StaticPool(config.worker))
    await gateway.start()
    await gateway.ready.wait()
    gc.collect()
    gc.freeze()
    say(gateway.address)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        say(str(1000 * watch.longest_s))
        watch.longest_s = 0.0
    await gateway.stop(0)


def say(line: str) -> None:
    """Tells the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Runs it."""
    watch = Watch()
    guarded = CallInterceptor._guarded

    def timed(
        guard: CallInterceptor, parse: Callable[[bytes], Any], walk: Walk | None, *, is_ours: bool
    ) -> Callable[[bytes], Any]:
        return guarded(guard, watch.aside(parse), walk, is_ours=is_ours)

    CallInterceptor._guarded = timed  # type: ignore[method-assign, assignment]
    if "--planted" in sys.argv:
        preprocess.__dict__["INLINE_CHARS"] = sys.maxsize
    with asyncio.Runner(loop_factory=lambda: WatchedLoop(watch)) as runner:
        runner.run(serve(sys.argv[1], watch))


if __name__ == "__main__":
    main()
