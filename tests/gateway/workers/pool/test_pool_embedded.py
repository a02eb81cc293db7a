"""The embedded pool starts workers, reports them, and starts them again when they die."""

import os
import signal
import stat
from pathlib import Path

import pytest

from gateway.workers.pool.backoff import BackoffPolicy
from gateway.workers.pool.embedded import EmbeddedPool
from gateway.workers.pool.machine import Placement
from gateway.workers.pool.worker_pool import PoolFailed, WorkerAddress
from tests.gateway.pool_observer import pid_of, wait_ended
from tests.gateway.pool_scene import NEVER, Scene, on_both_loops


def socket_of(address: WorkerAddress) -> Path:
    return Path(address.target.removeprefix("unix:"))


@on_both_loops
async def test_all_workers_come_up_and_go_down_once(scene: Scene) -> None:
    pool = await scene.started(scene.pool(3))
    addresses = [await scene.listener.up() for _ in range(3)]
    assert {address.name for address in addresses} == {"worker-0", "worker-1", "worker-2"}
    assert len({pid_of(address) for address in addresses}) == pool.size == 3
    await pool.stop(grace_s=60)
    assert {await scene.listener.down() for _ in range(3)} == {"worker-0", "worker-1", "worker-2"}
    assert scene.listener.empty


@on_both_loops
async def test_only_the_owner_may_enter_the_folder_of_the_sockets(scene: Scene) -> None:
    pool = await scene.started(scene.pool())
    folder = socket_of(await scene.listener.up()).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await pool.stop(grace_s=60)
    assert not folder.exists()


@on_both_loops
async def test_a_worker_gets_what_is_dealt_to_it(scene: Scene) -> None:
    gpus = Placement({"CUDA_VISIBLE_DEVICES": "2,MIG-3"}, ("--threads", "7"))
    pool = await scene.started(scene.pool(placements=[gpus]))
    address = await scene.listener.up()
    line = await scene.log.line("worker-0 is ready")
    assert f"address={address.target} threads=7 cuda=2,MIG-3" in line
    await pool.stop(grace_s=60)


@on_both_loops
async def test_what_the_operator_gives_a_worker_wins_over_what_is_dealt_to_it(scene: Scene) -> None:
    given = scene.pool(placements=[Placement({}, ("--threads", "7"))], arguments=["--threads", "1", "--max-rows", "3"])
    await scene.started(given)
    await scene.listener.up()
    assert "threads=1 " in await scene.log.line("worker-0 is ready")
    await given.stop(grace_s=60)


@on_both_loops
async def test_a_worker_holds_no_descriptor_but_its_own(scene: Scene) -> None:
    kept, given = os.pipe()
    os.set_inheritable(given, True)
    pool = await scene.started(scene.pool(2))
    await scene.listener.up()
    await scene.listener.up()
    os.close(given)
    assert os.read(kept, 1) == b""
    os.close(kept)
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_killed_worker_is_reported_and_comes_back(scene: Scene) -> None:
    pool = await scene.started(scene.pool())
    first = await scene.listener.up()
    os.kill(pid_of(first), signal.SIGKILL)
    assert await scene.listener.down() == "worker-0"
    assert await scene.log.line("killed") == "worker-0 was killed by SIGKILL; it is started again in 0.0 s"
    second = await scene.listener.up()
    assert second.name == first.name
    assert second.target != first.target
    assert not socket_of(first).exists()
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_killed_worker_does_not_disturb_the_others(scene: Scene) -> None:
    pool = await scene.started(scene.pool(2))
    victim, other = await scene.listener.up(), await scene.listener.up()
    pid = pid_of(other)
    os.kill(pid_of(victim), signal.SIGKILL)
    assert await scene.listener.down() == victim.name
    assert (await scene.listener.up()).name == victim.name
    assert pid_of(other) == pid
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_child_that_holds_stdout_does_not_hide_a_death_and_dies_too(scene: Scene) -> None:
    scene.workers_are("family")
    pool = await scene.started(scene.pool(backoff=NEVER))
    worker = pid_of(await scene.listener.up())
    child = int((await scene.log.line("child=")).rpartition("=")[2])
    os.kill(worker, signal.SIGKILL)
    await scene.listener.down()
    await wait_ended(child)
    await pool.stop(grace_s=60)


@on_both_loops
async def test_delays_grow_from_death_to_death(scene: Scene) -> None:
    scene.workers_are("crash")
    growing = BackoffPolicy(initial_s=0.001, multiplier=100, max_s=3600.0, missed_max_s=3600.0)
    pool = await scene.started(scene.pool(backoff=growing))
    lines = [await scene.log.line("exited") for _ in range(3)]
    delays = ["0.0 s", "0.1 s", "10.0 s"]
    assert lines == [f"worker-0 exited with code 1; it is started again in {delay}" for delay in delays]
    await pool.stop(grace_s=60)


@on_both_loops
async def test_the_last_worker_that_was_ready_comes_back_sooner_than_its_backoff_says(scene: Scene) -> None:
    backoff = BackoffPolicy(initial_s=3600.0, max_s=3600.0, missed_max_s=0.0)
    pool = await scene.started(scene.pool(2, backoff=backoff))
    workers = [await scene.listener.up() for _ in range(2)]
    for worker, delay in zip(workers, ["3600.0 s", "0.0 s"], strict=True):
        os.kill(pid_of(worker), signal.SIGKILL)
        assert await scene.listener.down() == worker.name
        assert (await scene.log.line("SIGKILL")).endswith(f"it is started again in {delay}")
    assert (await scene.listener.up()).name == workers[1].name
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_worker_that_refuses_to_serve_fails_the_pool_in_its_own_words(scene: Scene) -> None:
    scene.workers_are("refuse")
    pool = await scene.started(scene.pool(2))
    with pytest.raises(PoolFailed, match=r"worker-\d .* \(exit code 78\): cannot serve m: config\.json is empty$"):
        await pool.wait_failed()
    await pool.stop(grace_s=60)
    assert scene.listener.empty


@on_both_loops
async def test_a_worker_that_refuses_without_a_word_fails_the_pool_too(scene: Scene) -> None:
    scene.workers_are("mute")
    pool = await scene.started(scene.pool())
    with pytest.raises(PoolFailed, match=r"exit code 78.*standard error"):
        await pool.wait_failed()
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_refusal_after_a_worker_was_ready_is_logged_and_retried(scene: Scene) -> None:
    pool = await scene.started(scene.pool())
    worker = pid_of(await scene.listener.up())
    scene.workers_are("refuse")
    os.kill(worker, signal.SIGKILL)
    await scene.listener.down()
    line = await scene.log.line("worker-0 exited with code 78 before it was ready")
    assert "(cannot serve m: config.json is empty); it is started again" in line
    scene.workers_are("ready")
    await scene.listener.up()
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_worker_that_is_never_ready_is_killed_and_started_again(scene: Scene) -> None:
    scene.workers_are("silent")
    pool = await scene.started(scene.pool(start_timeout_s=0.3))
    for _ in range(2):
        line = await scene.log.line("was not ready")
        assert line == "worker-0 was not ready within 0.3 s and is killed; it is started again in 0.0 s"
    await pool.stop(grace_s=60)
    assert scene.listener.empty


@on_both_loops
async def test_a_program_that_does_not_exist_is_retried(scene: Scene) -> None:
    pool = await scene.started(EmbeddedPool(["/nonexistent/worker"], 1, backoff=NEVER))
    assert "No such file" in await scene.log.line("worker-0 could not be started")
    await pool.stop(grace_s=60)


@on_both_loops
async def test_the_ready_line_is_found_among_others_and_in_parts(scene: Scene) -> None:
    scene.workers_are("chatty")
    pool = await scene.started(scene.pool())
    assert (await scene.log.line("worker-0 wrote to its stdout")).endswith("hello from a library")
    await scene.listener.up()
    await pool.stop(grace_s=60)
