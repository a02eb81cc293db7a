"""What happens to real processes: workers that are killed, gateways that are killed, and Ctrl-C."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from client import AsyncClient, FinishReason, Generation, TextserveError
from examples.gateway_process import GatewayProcess


def children(gateway: GatewayProcess) -> list[psutil.Process]:
    return psutil.Process(gateway.pid).children()


async def gone(processes: list[psutil.Process]) -> None:
    """Waits for their end."""
    await asyncio.to_thread(psutil.wait_procs, processes)


async def result(client: AsyncClient, started: asyncio.Event) -> Generation:
    """Runs a long stream to its end."""
    request = client.stream(
        "Once upon a time", max_new_tokens=400, ignore_eos=True, temperature=5.0, seed=1, timeout=3600
    )
    async with request as stream:
        text = ""
        async for delta in stream:
            started.set()
            text += delta.text
        assert text == stream.result.text
        return stream.result


async def test_streams_of_a_killed_worker_go_on_at_another_one_and_it_comes_back() -> None:
    async with GatewayProcess(["--workers", "2"]) as gateway, AsyncClient(gateway.address) as client:
        victim, other = children(gateway)
        events = [asyncio.Event() for _ in range(8)]
        streams = [asyncio.create_task(result(client, event)) for event in events]
        await asyncio.gather(*(event.wait() for event in events[:2]))  # one on each worker, far from its end
        victim.kill()
        results = await asyncio.gather(*streams)
        assert {each.attempt_count for each in results} == {1, 2}
        assert len({each.worker for each in results}) == 1
        assert {each.finish_reason for each in results} == {FinishReason.LENGTH}
        assert (await client.generate("A, B, C", max_new_tokens=4)).text
        # A process comes back; nothing in this one could tell us.
        while (await client.models())[0].ready_worker_count < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        assert other.is_running()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--workers", "1", "--model", "{folder}"],
            "cannot serve {folder}: config.json must hold a JSON object, and holds a list",
        ),
        (["--workers", "2", "--", "--max-rows", "many"], "argument --max-rows: must be a whole number, not 'many'"),
    ],
    ids=["model", "flag"],
)
async def test_a_gateway_whose_workers_refuse_ends_with_their_reason_as_its_last_line(
    tmp_path: Path, flags: list[str], reason: str
) -> None:
    (tmp_path / "config.json").write_text("[]")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "--listen", "127.0.0.1:0"),
        *(flag.format(folder=tmp_path) for flag in flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, errors = await process.communicate()
    assert (process.returncode, told) == (1, b"")
    last = errors.decode().splitlines()[-1]
    assert re.match(r"textserve-gateway: worker-\d refuses to serve \(exit code 78\): ", last)
    assert reason.format(folder=tmp_path) in last


async def test_a_killed_gateway_leaves_no_worker_behind() -> None:
    async with GatewayProcess(["--workers", "1"]) as gateway:
        workers = children(gateway)
        assert len(workers) == 1
        os.kill(gateway.pid, signal.SIGKILL)
        await gone(workers)


async def test_an_interrupt_lets_running_streams_finish_and_refuses_new_ones() -> None:
    async with (
        GatewayProcess(["--workers", "1", "--grace", "3600", "--", "--drain-s", "3600"]) as gateway,
        AsyncClient(gateway.address) as client,
    ):
        workers = children(gateway)
        async with client.stream(
            "Once upon a time", max_new_tokens=200, temperature=5.0, seed=1, timeout=3600
        ) as stream:
            await anext(stream)
            os.kill(gateway.pid, signal.SIGINT)
            text = [delta.text async for delta in stream]
        assert stream.result.text.endswith(text[-1])
        assert await gateway.wait() == 0
        await gone(workers)
        with pytest.raises(TextserveError):
            await client.generate("A, B, C", timeout=5)
