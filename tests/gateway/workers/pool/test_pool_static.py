"""The pool of workers that somebody else runs."""

import asyncio

import pytest

from gateway.workers.pool.static import StaticPool
from gateway.workers.pool.worker_pool import WorkerAddress
from tests.gateway.pool_observer import Recorder


async def test_every_target_is_up_from_the_start() -> None:
    pool, listener = StaticPool(["a:1", "b:2"]), Recorder()
    await pool.start(listener)
    assert [await listener.up(), await listener.up()] == [WorkerAddress("a:1", "a:1"), WorkerAddress("b:2", "b:2")]
    await pool.stop(grace_s=0)
    assert listener.empty


async def test_a_target_given_twice_is_one_worker() -> None:
    pool, listener = StaticPool(["a:1", "a:1"]), Recorder()
    await pool.start(listener)
    await listener.up()
    assert listener.empty
    assert pool.size == 1


async def test_a_static_pool_replaces_nothing() -> None:
    pool, listener = StaticPool(["a:1"]), Recorder()
    await pool.start(listener)
    assert not pool.replace(await listener.up(), "it hangs")
    assert listener.empty


async def test_a_static_pool_never_fails() -> None:
    failed = asyncio.create_task(StaticPool(["a:1"]).wait_failed())
    await asyncio.sleep(0)  # one turn of the loop
    assert not failed.done()
    failed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await failed
