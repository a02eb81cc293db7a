"""The embedded pool ends a worker that others have found to hang, and starts it again."""

import asyncio
import os
import signal

from gateway.workers.pool.backoff import BackoffPolicy
from gateway.workers.pool.worker_pool import WorkerAddress
from tests.gateway.pool_observer import pid_of, wait_ended
from tests.gateway.pool_scene import NEVER, Scene, on_both_loops


@on_both_loops
async def test_a_stopped_worker_is_replaced_and_reported_down_and_up_once(scene: Scene) -> None:
    pool = await scene.started(scene.pool())
    first = await scene.listener.up()
    pid = pid_of(first)
    os.kill(pid, signal.SIGSTOP)

    assert pool.replace(first, "it has been silent for 3.6 s")

    line = await scene.log.line("silent")
    assert line == "worker-0 does not work and is killed: it has been silent for 3.6 s"
    assert await scene.listener.down() == first.name
    second = await scene.listener.up()
    assert second.name == first.name
    assert pid_of(second) != pid
    assert scene.listener.empty
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_worker_is_replaced_with_its_children(scene: Scene) -> None:
    scene.workers_are("family")
    pool = await scene.started(scene.pool())
    first = await scene.listener.up()
    child = int((await scene.log.line("child=")).rpartition("=")[2])
    assert pool.replace(first, "it hangs")
    await scene.listener.down()
    await wait_ended(child)
    await scene.listener.up()
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_word_on_a_process_that_is_gone_does_not_meet_the_next_one(scene: Scene) -> None:
    pool = await scene.started(scene.pool())
    first = await scene.listener.up()
    os.kill(pid_of(first), signal.SIGKILL)
    await scene.listener.down()
    assert not pool.replace(first, "too early: nothing is there")
    second = await scene.listener.up()
    pid = pid_of(second)

    assert not pool.replace(first, "too late: another one is there")

    assert pid_of(second) == pid
    await pool.stop(grace_s=60)


@on_both_loops
async def test_the_others_are_left_alone(scene: Scene) -> None:
    pool = await scene.started(scene.pool(2))
    hung, other = await scene.listener.up(), await scene.listener.up()
    pid = pid_of(other)
    assert pool.replace(hung, "it hangs")
    assert await scene.listener.down() == hung.name
    assert (await scene.listener.up()).name == hung.name
    assert pid_of(other) == pid
    await pool.stop(grace_s=60)


@on_both_loops
async def test_workers_that_hang_again_and_again_are_started_ever_later(scene: Scene) -> None:
    growing = BackoffPolicy(initial_s=0.001, multiplier=100, max_s=3600.0, missed_max_s=3600.0)
    pool = await scene.started(scene.pool(backoff=growing))
    for delay in ("0.0 s", "0.1 s", "10.0 s"):
        assert pool.replace(await scene.listener.up(), "it hangs")
        await scene.listener.down()
        assert (await scene.log.line("SIGKILL")).endswith(f"started again in {delay}")
    await pool.stop(grace_s=60)


@on_both_loops
async def test_a_worker_that_hangs_while_the_pool_stops_does_not_come_back(scene: Scene) -> None:
    scene.workers_are("stubborn")
    pool = await scene.started(scene.pool())
    address = await scene.listener.up()
    stopping = asyncio.create_task(pool.stop(grace_s=3600))
    await asyncio.sleep(0)  # a turn of the loop, in which it sends what it sends
    assert pool.replace(address, "it hangs")
    await stopping
    assert await scene.listener.down() == address.name
    assert scene.listener.empty


@on_both_loops
async def test_an_address_of_no_worker_is_not_replaced(scene: Scene) -> None:
    pool = await scene.started(scene.pool(backoff=NEVER))
    address = await scene.listener.up()
    assert not pool.replace(WorkerAddress(address.name, "elsewhere"), "it hangs")
    await pool.stop(grace_s=60)
    assert not pool.replace(address, "it hangs")
