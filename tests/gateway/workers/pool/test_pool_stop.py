"""The embedded pool stops at any moment, in the time that it is given, and leaves nothing over."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from gateway.workers.pool.worker_pool import PoolFailed
from tests.gateway.pool_observer import pid_of
from tests.gateway.pool_scene import NEVER, Scene, on_both_loops


@on_both_loops
async def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace(scene: Scene) -> None:
    scene.workers_are("stubborn")
    pool = await scene.started(scene.pool(2))
    pids = [pid_of(await scene.listener.up()) for _ in range(2)]
    await pool.stop(grace_s=0.05)
    assert await scene.log.line("SIGKILL") in {"worker-0 was killed by SIGKILL", "worker-1 was killed by SIGKILL"}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@on_both_loops
async def test_a_second_stop_leaves_a_draining_worker_its_grace(scene: Scene) -> None:
    scene.workers_are("drain")
    pool = await scene.started(scene.pool())
    address = await scene.listener.up()
    async with asyncio.TaskGroup() as stops:
        stops.create_task(pool.stop(grace_s=60))
        await scene.log.line("draining")
        stops.create_task(pool.stop(grace_s=60))
        await asyncio.sleep(0)  # a turn of the loop, in which it sends what it sends
        assert pid_of(address)  # makes the connection that the worker waits for
    assert await scene.log.line("worker-0 exited") == "worker-0 exited with code 0"


@on_both_loops
async def test_a_second_stop_without_grace_ends_the_first(scene: Scene) -> None:
    scene.workers_are("stubborn")
    pool = await scene.started(scene.pool())
    await scene.listener.up()
    async with asyncio.TaskGroup() as stops:
        stops.create_task(pool.stop(grace_s=3600))
        stops.create_task(pool.stop(grace_s=0))


@on_both_loops
async def test_a_cancelled_stop_can_be_taken_up_again(scene: Scene) -> None:
    scene.workers_are("stubborn")
    pool = await scene.started(scene.pool())
    await scene.listener.up()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.stop(grace_s=3600), timeout=0.01)
    await pool.stop(grace_s=0)
    await pool.stop(grace_s=0)


@on_both_loops
async def test_stopping_at_any_moment_of_the_start_leaves_nothing(scene: Scene) -> None:
    scene.workers_are("silent")
    for grace_s in (0.0, 60.0):
        for turns in range(8):
            pool = await scene.started(scene.pool(2))
            for _ in range(turns):
                await asyncio.sleep(0)  # a turn of the loop
            await pool.stop(grace_s)
    assert scene.listener.empty


@on_both_loops
async def test_stopping_in_the_backoff_does_not_wait_for_it(scene: Scene) -> None:
    scene.workers_are("crash")
    pool = await scene.started(scene.pool(backoff=NEVER))
    await scene.log.line("it is started again in 3600.0 s")
    await pool.stop(grace_s=60)


@on_both_loops
async def test_stopping_what_was_never_started_is_harmless(scene: Scene) -> None:
    await scene.pool().stop(grace_s=60)


@on_both_loops
async def test_many_deaths_leak_nothing(scene: Scene) -> None:
    scene.workers_are("crash")
    pool = await scene.started(scene.pool(2))
    for _ in range(10):
        await scene.log.line("exited with code 1")
    await pool.stop(grace_s=60)


def test_a_loop_that_ends_without_a_stop_leaves_no_worker(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "mode")
    scene.workers_are("stubborn")

    pool = scene.pool()

    async def main() -> int:
        await scene.started(pool)
        return pid_of(await scene.listener.up())

    pid = asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    asyncio.run(pool.stop(grace_s=0))


def test_a_folder_too_long_for_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    scene = Scene(tmp_path / "mode")
    with pytest.raises(PoolFailed, match="TMPDIR"):
        asyncio.run(scene.pool().start(scene.listener))
    assert list(folder.iterdir()) == []
