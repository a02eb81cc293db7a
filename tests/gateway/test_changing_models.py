"""What is served follows the workers that are there: their limits, and another model once the former one is gone."""

import asyncio

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode

from gateway.config import Config
from tests.fakes import FakeWorker
from tests.gateway.losing import kill, restart, runs
from tests.gateway.serving import Served, failing, request, serving, until
from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2

PATIENT = Config(listen="127.0.0.1:0", worker_wait=60.0)
IMPATIENT = Config(listen="127.0.0.1:0", worker_wait=0.0)


def wide(count: int) -> pb.GenerateRequest:
    """A request for so many candidates."""
    settings = pb.GenerationConfig(max_new_tokens=2, temperature=1.0, seed=1, num_return_sequences=count)
    return pb.GenerateRequest(text="ab", generation_config=settings)


def max_rows(served: Served) -> int:
    assert served.gateway.models.current
    return served.gateway.models.current.facts.max_rows


async def fingerprint(served: Served) -> str:
    (model,) = (await served.caller.models.ListModels(model_pb2.ListModelsRequest())).models
    return model.fingerprint


async def test_limits_are_those_of_the_workers_that_are_there() -> None:
    workers = FakeWorker(rows=8, pool_tokens=900), FakeWorker(rows=1, pool_tokens=100), FakeWorker(rows=4)
    async with serving(*workers) as served:
        assert max_rows(served) == 1
        failure = await failing(served.caller.generate(wide(2)))
        assert failure.reason == "TOO_MANY_ROWS"

        await kill(served, 1)
        await until(lambda: max_rows(served) == 4)
        assert served.gateway.models.current
        assert served.gateway.models.current.facts.pool_tokens == 900
        call = served.caller.generation.Generate(wide(4))
        await until(lambda: sum(worker.row_count for worker in served.workers) == 4)
        for worker in served.workers:
            worker.step(2)
        assert len((await call).candidates) == 4

        await kill(served, 2)
        await until(lambda: max_rows(served) == 8)
        await restart(served, 1)
        await until(lambda: max_rows(served) == 1)


async def test_what_was_admitted_for_a_wide_worker_does_not_go_to_a_narrow_one_that_has_come_since() -> None:
    async with serving(FakeWorker(rows=4), FakeWorker(rows=1)) as served:
        await kill(served, 1)
        await until(lambda: max_rows(served) == 4)
        first = served.caller.generation.Generate(wide(4))
        await runs(served.worker, 4)
        second = served.caller.generation.Generate(wide(3))
        await served.worker.until(lambda: served.worker.demand == 3)

        await restart(served, 1)
        await until(lambda: max_rows(served) == 1)
        single = served.caller.generation.Generate(request(max_new_tokens=2))
        await runs(served.workers[1], 1)
        served.workers[1].step(2)
        assert (await single).candidates[0].text == "ab"
        served.worker.step(2)
        await runs(served.worker, 3)
        served.worker.step(2)

        assert len((await first).candidates) == 4
        assert len((await second).candidates) == 3
        assert len(served.workers[1].submits) == 1


async def test_what_fits_no_worker_that_is_left_ends_and_what_waits_behind_it_goes_on() -> None:
    async with serving(FakeWorker(rows=4), FakeWorker(rows=1)) as served:
        await kill(served, 1)
        await until(lambda: max_rows(served) == 4)
        begun = served.caller.generation.Generate(wide(4))
        await runs(served.worker, 4)
        waiting = served.caller.generation.Generate(wide(3))
        behind = served.caller.generation.Generate(request(max_new_tokens=2))
        await served.worker.until(lambda: served.worker.demand == 4)

        await restart(served, 1)
        await runs(served.workers[1], 1)
        await kill(served, 0)

        for call, reason in ((begun, "WORKER_LOST"), (waiting, "NO_WORKER")):
            failure = await failing(call)
            assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, reason)
        served.workers[1].step(2)
        assert (await behind).candidates[0].text == "ab"
        await served.nothing_runs()


async def test_another_model_takes_the_place_of_one_that_has_no_worker_left() -> None:
    async with serving(FakeWorker(fingerprint="old"), FakeWorker(fingerprint="old"), config=PATIENT) as served:
        served.workers[0].description.fingerprint = "new"
        await kill(served, 0)
        await restart(served, 0)
        await asyncio.sleep(0)
        assert await fingerprint(served) == "old"

        served.workers[1].description.fingerprint = "new"
        await kill(served, 1)
        await restart(served, 1)
        await until(lambda: served.gateway.dispatcher.worker_count == 2)

        assert await fingerprint(served) == "new"
        call = served.caller.generation.Generate(request(max_new_tokens=1))
        await until(lambda: any(worker.row_count for worker in served.workers))
        for worker in served.workers:
            worker.step()
        assert (await call).receipt.fingerprint == "new"


async def test_requests_of_a_model_wait_for_its_workers_before_another_takes_its_place() -> None:
    async with serving(FakeWorker(fingerprint="old"), FakeWorker(fingerprint="old"), config=PATIENT) as served:
        await kill(served, 1)
        call = served.caller.generation.Generate(request(max_new_tokens=4))
        await runs(served.worker, 1)
        served.workers[1].description.fingerprint = "new"
        await kill(served, 0)
        await restart(served, 1)
        await until(lambda: served.gateway.dispatcher.queued_count == 1)

        await restart(served, 0)
        await runs(served.worker, 1)
        served.worker.step(4)

        answer = await call
        assert (answer.receipt.fingerprint, answer.candidates[0].text) == ("old", "abab")
        assert not served.workers[1].submits


async def test_once_they_have_been_given_up_the_other_model_is_served() -> None:
    async with serving(FakeWorker(fingerprint="old"), config=IMPATIENT) as served:
        call = served.caller.generation.Generate(request(max_new_tokens=4))
        await runs(served.worker, 1)
        served.worker.description.fingerprint = "new"
        await kill(served)
        assert (await failing(call)).reason == "WORKER_LOST"

        await restart(served)
        await until(lambda: served.gateway.dispatcher.worker_count == 1)
        assert await fingerprint(served) == "new"


@pytest.mark.parametrize("partial", [True, False], ids=["max_time", "given up"])
async def test_the_worker_of_a_request_that_ends_between_workers_is_the_one_that_it_had(partial: bool) -> None:  # noqa: FBT001 - a parameter
    message = request(max_new_tokens=9)
    if partial:
        message.generation_config.max_time.FromMilliseconds(500)
    async with serving(FakeWorker(), config=PATIENT if partial else IMPATIENT) as served:
        call = served.caller.generation.Generate(message)
        await runs(served.worker, 1)
        served.worker.step(2)
        await until(lambda: sum(one.output_token_count for one in served.gateway.dispatcher._running) == 2)
        await kill(served)

        if partial:
            answer = await call
            assert (answer.candidates[0].text, answer.receipt.worker) == ("ab", "worker-0")
        else:
            failure = await failing(call)
            assert failure.metadata == {"worker": "worker-0"}
            assert failure.detail(error_details_pb2.RequestInfo).request_id
