"""A worker that says nothing is given up, unless what it says is merely not read."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from gateway.workers import run_stream as worker_stream
from gateway.workers.liveness import SILENCE_LIMIT_S, FaultKind, Liveness
from gateway.workers.run_stream import RunStream
from tests.gateway.dispatch.dispatching import dispatcher

if TYPE_CHECKING:
    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

LOOK_S = 0.5


class Clock:
    """Goes on by half a second with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += LOOK_S
        return self.now


class Silence:
    """A Run stream on which nothing ever comes."""

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        await asyncio.Event().wait()
        raise StopAsyncIteration

    def cancel(self) -> None:
        """As a call's."""


async def given_up(monkeypatch: pytest.MonkeyPatch, clock: Clock, has_unread: Callable[[], bool]) -> float:
    """When a silent worker was given up, in seconds since the stream was opened."""
    monkeypatch.setattr(worker_stream, "LOOK_INTERVAL_S", 0)
    stub = cast("WorkerServiceAsyncStub", SimpleNamespace(Run=lambda _: Silence()))
    dispatching = dispatcher(clock=clock)
    stream = RunStream("worker", dispatching, Liveness("a", 0.0), clock, has_unread)

    async with asyncio.timeout(300):
        ending = await stream.serve(stub)

    assert ending.fault is not None
    assert ending.fault.kind is FaultKind.SILENT
    assert ending.hangs
    return clock.now


async def test_a_silent_worker_is_given_up_at_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    at = await given_up(monkeypatch, Clock(), lambda: False)

    assert SILENCE_LIMIT_S + LOOK_S < at <= SILENCE_LIMIT_S + 3 * LOOK_S


async def test_it_is_kept_for_as_long_as_its_words_lie_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    at = await given_up(monkeypatch, clock, lambda: clock.now < 60.0)

    assert 60.0 < at <= 60.0 + 3 * LOOK_S
