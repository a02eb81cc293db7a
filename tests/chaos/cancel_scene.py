"""Callers that leave in every phase of their calls: gates in a fake worker hold them there."""

import asyncio
from collections.abc import Awaitable, Callable

from grpc import aio

from gateway.config import Config
from tests.chaos.outcome import Outcome
from tests.fakes import FakeWorker
from tests.gateway.serving import LOCAL, Served, request, serving, until, until_tokens
from textserve.v1 import generation_pb2 as pb

BATCH = 50
Call = aio.UnaryStreamCall[pb.GenerateRequest, pb.StreamGenerateResponse]
Phase = Callable[[Served], Awaitable[None]]


async def cancels(count: int) -> Outcome:
    """Cancels `count` calls in each phase."""
    problems: list[str] = []
    for phase, (leave, rows) in PHASES.items():
        problems += [f"{phase}: {leak}" for leak in await _leaks(leave, rows, count)]
    figures = f"{count} times in each of {len(PHASES)} phases: {', '.join(PHASES)}"
    return Outcome("cancel in each phase", figures, "0 leaked rows, tasks, queue entries", problems)


async def _leaks(leave: Phase, rows: int, count: int) -> list[str]:
    config = Config(listen=LOCAL.listen, max_queued=2 * BATCH)
    async with serving(FakeWorker(rows=rows), config=config) as served:
        await leave(served)  # what gRPC keeps from its first calls on is no leak
        await served.nothing_runs()
        await asyncio.to_thread(lambda: None)
        tasks = len(asyncio.all_tasks())
        for _ in range(-(-count // BATCH)):
            await leave(served)
        return await _left_over(served, tasks)


async def _left_over(served: Served, task_count: int) -> list[str]:
    dispatcher, worker = served.gateway.dispatcher, served.worker
    try:
        await until(lambda: not dispatcher.queued_count and not dispatcher.running_count)
        await worker.until(lambda: worker.row_count == 0 and worker.demand == 0)
        # gRPC's own tasks end some turns after their calls; any of the gateway's that had not ended would never.
        await until(lambda: len(asyncio.all_tasks()) <= task_count)
    except TimeoutError:
        return [
            f"{dispatcher.queued_count} queued, {dispatcher.running_count} running, {worker.row_count} rows, "
            f"{len(asyncio.all_tasks()) - task_count} tasks"
        ]
    return []


def _calls(served: Served, max_new_tokens: int = 200) -> list[Call]:
    message = request(max_new_tokens=max_new_tokens)
    message.output_options.token_ids = True
    return [served.caller.generation.StreamGenerate(message) for _ in range(BATCH)]


async def _leave_queue(served: Served) -> None:
    calls = _calls(served)
    await until(lambda: served.gateway.dispatcher.queued_count == BATCH)
    await _leave(served, calls)


async def _leave_prefill(served: Served) -> None:
    await _leave(served, await _on_rows(served))


async def _leave_decode(served: Served) -> None:
    calls = await _on_rows(served)
    served.worker.step(3)
    for call in calls:
        await until_tokens(aiter(call), 1)
    await _leave(served, calls)


async def _leave_with_last_token(served: Served) -> None:
    calls = await _on_rows(served, max_new_tokens=1)
    served.worker.step()
    await _leave(served, calls)


async def _leave_blocked_write(served: Served) -> None:
    contexts = [BlockedContext() for _ in range(BATCH)]
    calls = [
        asyncio.create_task(
            served.gateway.generation.StreamGenerate(request(max_new_tokens=200), context)  # type: ignore[arg-type]
        )
        for context in contexts
    ]
    await served.worker.until(lambda: served.worker.row_count == BATCH)
    served.worker.step(3)
    await asyncio.gather(*(context.blocked.wait() for context in contexts))
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await served.nothing_runs()


async def _on_rows(served: Served, max_new_tokens: int = 200) -> list[Call]:
    calls = _calls(served, max_new_tokens)
    await served.worker.until(lambda: served.worker.row_count == BATCH)
    return calls


async def _leave(served: Served, calls: list[Call]) -> None:
    for call in calls:
        call.cancel()
    await served.nothing_runs()


class BlockedContext:
    """The side of a call whose caller takes the first message and then nothing more."""

    def __init__(self) -> None:
        self.blocked = asyncio.Event()
        self._is_first = True

    async def write(self, message: pb.StreamGenerateResponse) -> None:
        if not self._is_first:
            self.blocked.set()
            await asyncio.Event().wait()
        self._is_first = False

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


PHASES: dict[str, tuple[Phase, int]] = {
    "queued": (_leave_queue, 0),
    "prefill": (_leave_prefill, BATCH),
    "decode": (_leave_decode, BATCH),
    "last token": (_leave_with_last_token, BATCH),
    "blocked write": (_leave_blocked_write, BATCH),
}
