"""Runs a test of the embedded pool on both event loops, and checks each time that nothing is left over."""

import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import uvloop

from gateway.workers.pool.backoff import BackoffPolicy
from gateway.workers.pool.embedded import EmbeddedPool
from gateway.workers.pool.machine import Placement
from tests.gateway.pool_observer import Log, Recorder, nothing_left_over

WORKER = Path(__file__).with_name("pool_worker.py")
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
AT_ONCE = BackoffPolicy(initial_s=0.0, max_s=0.0)
NEVER = BackoffPolicy(initial_s=3600.0, max_s=3600.0, missed_max_s=3600.0)


class Scene:
    """Workers whose behaviour the test sets, and what it sees of their pool."""

    def __init__(self, mode: Path) -> None:
        self._mode = mode
        self.listener = Recorder()
        self.log = Log()
        self.workers_are("ready")

    def workers_are(self, mode: str) -> None:
        """Sets what workers do that are started from now on: see pool_worker.py."""
        self._mode.write_text(mode)

    def pool(
        self,
        count: int = 1,
        *,
        backoff: BackoffPolicy = AT_ONCE,
        start_timeout_s: float = 60.0,
        placements: list[Placement] | None = None,
        arguments: Sequence[str] = (),
    ) -> EmbeddedPool:
        """Returns a pool that is not started; its backoff has no jitter."""
        return EmbeddedPool(
            [sys.executable, str(WORKER), "--mode", str(self._mode)],
            count,
            arguments=arguments,
            placements=placements,
            backoff=backoff,
            start_timeout_s=start_timeout_s,
            chance=lambda: 0.5,
        )

    async def started(self, pool: EmbeddedPool) -> EmbeddedPool:
        """Starts `pool`, which reports to this scene."""
        await pool.start(self.listener)
        return pool


def on_both_loops(scenario: Callable[[Scene], Awaitable[None]]) -> Callable[..., None]:
    """Makes a test out of a scenario."""

    @pytest.mark.parametrize("loop", LOOPS)
    def test(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        temporary = tmp_path.parent / "t"  # short enough for the path of a socket
        temporary.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        caplog.set_level(logging.INFO, "gateway.workers.pool")
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(_play(scenario, Scene(tmp_path / "mode")))

    test.__name__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    return test


async def _play(scenario: Callable[[Scene], Awaitable[None]], scene: Scene) -> None:
    logger = logging.getLogger("gateway.workers.pool")
    logger.addHandler(scene.log)
    await _open_a_stream()
    try:
        async with nothing_left_over():
            await scenario(scene)
    finally:
        logger.removeHandler(scene.log)


async def _open_a_stream() -> None:
    """Lets libuv open what it keeps: from a loop's first stream on it holds one descriptor in reserve."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "", stdin=asyncio.subprocess.PIPE)
    await process.communicate()
