"""Long work: bounded in threads and in memory, in the order of priority and of tenants' turns, and given up in time."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path

import pytest

from gateway.domain.errors import Code, ServiceError
from gateway.domain.request import Call
from gateway.domain.tenancy import Caller, Priority, TenantPolicy
from gateway.request import executor as executor_module
from gateway.request.executor import CHAR_BYTES, SHORT_CHARS, Executor, Executors
from tests.gateway.serving import FakeClock, settle, until

TOLD = TenantPolicy(trusted=True)


def call(tenant: str = "", priority: Priority = Priority.DEFAULT, *, within_s: float = 60.0) -> Call:
    return Call(Caller(tenant, priority), arrived_at=1000.0, deadline_at=1000.0 + within_s)


class Bench:
    """An executor whose work ends when the test lets it."""

    def __init__(self, executor: Executor, clock: FakeClock) -> None:
        self.executor = executor
        self.clock = clock
        self.begun: list[str] = []
        self._gates: dict[str, threading.Event] = {}
        self._calls: set[asyncio.Task[str]] = set()

    async def begin(self, name: str, whose: Call, chars: int = 1) -> "asyncio.Task[str]":
        """Brings work, and returns its call once it waits or runs."""
        gate = self._gates[name] = threading.Event()

        def work() -> str:
            self.begun.append(name)
            gate.wait()
            return name

        task = asyncio.create_task(self.executor.run(work, whose, chars))
        self._calls.add(task)
        await settle()
        return task

    def let_end(self, name: str) -> None:
        """Lets work end."""
        self._gates[name].set()

    def release(self) -> None:
        for gate in self._gates.values():
            gate.set()


@asynccontextmanager
async def bench(threads: int = 1, *, memory_bytes: float = inf, max_waiting_chars: float = inf) -> AsyncIterator[Bench]:
    clock = FakeClock()
    executor = Executor(
        TOLD,
        name="test",
        threads=threads,
        clock=clock,
        memory_bytes=memory_bytes,
        max_waiting_chars=max_waiting_chars,
    )
    one = Bench(executor, clock)
    try:
        yield one
    finally:
        one.release()
        await until(lambda: not executor.running_count)
        executor.close()


async def order(one: Bench, names: list[str]) -> list[str]:
    """Lets everything end as soon as it begins; the order in which it began."""
    one.release()
    await until(lambda: len(one.begun) == len(names))
    return one.begun


async def test_a_better_class_goes_first_and_the_tenants_take_turns() -> None:
    async with bench() as one:
        await one.begin("running", call("flood"))
        for index in range(3):
            await one.begin(f"flood {index}", call("flood"), 1000)
        await one.begin("batch", call("other", Priority.BATCH))
        await one.begin("other", call("other"))
        await one.begin("interactive", call("flood", Priority.INTERACTIVE))

        names = await order(one, ["running", "flood 0", "flood 1", "flood 2", "batch", "other", "interactive"])

        assert names[:2] == ["running", "interactive"]
        assert names.index("other") < names.index("flood 1")
        assert names[-1] == "batch"


async def test_of_one_tenant_the_earlier_deadline_goes_first() -> None:
    async with bench() as one:
        await one.begin("running", call())
        await one.begin("late", call(within_s=50))
        await one.begin("soon", call(within_s=10))

        assert await order(one, ["running", "late", "soon"]) == ["running", "soon", "late"]


async def test_the_memory_of_what_runs_is_bounded_and_what_needs_more_runs_alone() -> None:
    async with bench(threads=3, memory_bytes=10 * CHAR_BYTES) as one:
        huge = await one.begin("huge", call("a"), 11)
        await one.begin("small", call("b"), 4)
        assert one.begun == ["huge"]
        assert one.executor.reserved_bytes == 11 * CHAR_BYTES

        one.let_end("huge")
        await huge
        await until(lambda: one.begun == ["huge", "small"])
        await one.begin("another", call("c"), 6)
        await one.begin("one too many", call("d"), 1)
        await until(lambda: "another" in one.begun)

        assert one.begun == ["huge", "small", "another"]
        assert one.executor.reserved_bytes == 10 * CHAR_BYTES
        assert one.executor.waiting_count == 1


async def test_what_waits_is_bounded_in_all_and_of_one_tenant() -> None:
    async with bench(max_waiting_chars=100) as one:
        await one.begin("running", call("a"), 1000)
        await one.begin("whatever its size", call("a"), 1000)
        with pytest.raises(ServiceError) as full:
            await one.executor.run(lambda: None, call("b"), 1)
    async with bench(max_waiting_chars=100) as one:
        await one.begin("running", call("a"), 1000)
        await one.begin("first", call("a"), 20)
        with pytest.raises(ServiceError) as quota:
            await one.executor.run(lambda: None, call("a"), 6)
        await one.begin("another tenant's", call("b"), 20)

        assert one.executor.waiting_count == 2

    assert [(each.value.code, each.value.reason) for each in (full, quota)] == [
        (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA"),
    ]
    assert full.value.retry_after_s is not None


async def test_a_call_that_leaves_takes_its_work_out_of_the_queue() -> None:
    async with bench() as one:
        await one.begin("running", call())
        leaving = await one.begin("leaving", call())
        await one.begin("staying", call())

        leaving.cancel()
        await asyncio.wait([leaving])
        assert one.executor.waiting_count == 1

        assert await order(one, ["running", "staying"]) == ["running", "staying"]


async def test_work_whose_call_has_left_is_in_the_account_until_it_ends() -> None:
    async with bench() as one:
        leaving = await one.begin("leaving", call(), 5)

        leaving.cancel()
        await asyncio.wait([leaving])
        assert one.executor.reserved_bytes == 5 * CHAR_BYTES

        one.release()
        await until(lambda: one.executor.reserved_bytes == 0)


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_at_its_deadline_a_call_is_answered_and_waits_no_more(*, is_waiting: bool) -> None:
    async with bench() as one:
        if is_waiting:
            await one.begin("running", call())
        task = await one.begin("late", call(within_s=0.0))

        with pytest.raises(ServiceError) as caught:
            await task

        assert caught.value.reason == "REQUEST_TIMEOUT"
        assert caught.value.metadata == {"phase": "admission"}
        assert one.executor.waiting_count == 0


async def test_what_work_raises_reaches_its_caller() -> None:
    def broken() -> None:
        raise ValueError("broken")

    async with bench() as one:
        with pytest.raises(ValueError, match="broken"):
            await one.executor.run(broken, call(), 1)


async def test_neither_a_short_prompt_nor_an_answer_waits_for_a_long_one() -> None:
    executors, gate = Executors(TenantPolicy(), FakeClock()), threading.Event()
    wait: Callable[[], bool] = gate.wait
    long = [asyncio.create_task(executors.prepare(wait, call(), SHORT_CHARS + 1)) for _ in range(20)]
    try:
        await settle()

        assert await executors.prepare(lambda: "short", call(), SHORT_CHARS) == "short"
        assert await executors.answer(lambda: "answer", call(), 10 * SHORT_CHARS) == "answer"
    finally:
        gate.set()
        await asyncio.gather(*long)
        executors.close()


def test_no_work_for_a_request_goes_to_the_threads_that_everybody_shares() -> None:
    folder = Path(executor_module.__file__).parent
    sharing = {path.name for path in folder.rglob("*.py") if re.search(r"to_thread|run_in_executor", path.read_text())}

    # A worker's tokenizer is read before there is any request.
    assert sharing <= {"connection.py"}
