"""The writer of a stream wakes when there is something to write, not too often, and always at the end."""

import asyncio

import pytest

from gateway.api.stream_writer import MAX_INTERVAL_S, StreamWriter, write_interval_s
from gateway.domain.generation import Generation
from gateway.domain.sequence import Status
from tests.fakes import ids
from tests.gateway.generations import generation

NEVER_S = 3600.0


def deliver(one: Generation, *, interval_s: float) -> tuple[StreamWriter, list[str]]:
    overflows: list[str] = []
    writer = StreamWriter(one, interval_s=lambda: interval_s, on_overflow=lambda: overflows.append("overflow"))
    return writer, overflows


def push(one: Generation, text: str) -> None:
    for token_id in ids(text):
        one.sequences[0].push(token_id, 1.0)
        one.on_change()


def taken(one: Generation) -> str:
    delta = one.sequences[0].take()
    return delta.text if delta else ""


async def test_the_first_token_wakes_the_writer_at_once() -> None:
    one = generation()
    writer, _ = deliver(one, interval_s=NEVER_S)
    waiting = asyncio.create_task(writer.changed())
    await asyncio.sleep(0)

    push(one, "a")
    await waiting

    assert taken(one) == "a"


async def test_what_comes_within_the_interval_waits_and_is_merged() -> None:
    one = generation()
    writer, _ = deliver(one, interval_s=0.01)
    push(one, "a")
    await writer.changed()
    taken(one)
    started_at = asyncio.get_running_loop().time()

    push(one, "bcd")
    await writer.changed()

    assert asyncio.get_running_loop().time() - started_at >= 0.009
    assert taken(one) == "bcd"


async def test_the_end_does_not_wait_for_the_interval() -> None:
    one = generation()
    writer, _ = deliver(one, interval_s=NEVER_S)
    push(one, "a")
    await writer.changed()
    waiting = asyncio.create_task(writer.changed())
    await asyncio.sleep(0)

    push(one, "b")
    await asyncio.sleep(0)
    assert not waiting.done()
    one.finish(Status.LENGTH)
    one.on_change()
    await waiting


async def test_a_change_while_the_writer_was_busy_is_not_missed() -> None:
    one = generation()
    writer, _ = deliver(one, interval_s=0.0)
    push(one, "a")

    await writer.changed()
    push(one, "b")
    await writer.changed()

    assert taken(one) == "ab"


async def test_too_much_before_a_busy_writer_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.stream_writer.MAX_PENDING_CHARS", 3)
    one = generation()
    _, overflows = deliver(one, interval_s=0.0)
    push(one, "abc")
    assert overflows == []

    push(one, "d")

    assert overflows == ["overflow"]


async def test_what_waits_for_a_writer_that_is_not_busy_does_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.stream_writer.MAX_PENDING_CHARS", 3)
    one = generation()
    writer, overflows = deliver(one, interval_s=0.0)
    waiting = asyncio.create_task(writer.changed())
    await asyncio.sleep(0)

    push(one, "abcde")
    await waiting

    assert overflows == []


async def test_a_writer_that_leaves_takes_its_timer_along() -> None:
    one = generation()
    writer, _ = deliver(one, interval_s=NEVER_S)
    push(one, "a")
    await writer.changed()
    waiting = asyncio.create_task(writer.changed())
    push(one, "b")
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])

    push(one, "c")
    assert taken(one) == "abc"


def test_few_streams_are_written_to_at_once_and_many_share_a_budget() -> None:
    assert write_interval_s(1) < 0.001
    assert 0.01 < write_interval_s(64) <= 0.025
    assert write_interval_s(10**6) == MAX_INTERVAL_S
