"""Load reports: the bytes that load balancers read, and that they come with every end of a call."""

from typing import Any, NoReturn

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.interceptors import TRAILER, LoadReport, Rate
from gateway.config import Config
from gateway.domain import errors
from tests.fakes import FakeWorker, says
from tests.gateway.serving import request, serving
from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2


def _report_class() -> Any:
    """The fields of xds.data.orca.v3.OrcaLoadReport that we set, by the numbers of its definition."""
    file = descriptor_pb2.FileDescriptorProto(name="report.proto", package="test", syntax="proto3")
    message = file.message_type.add(name="OrcaLoadReport")
    for name, number in (("rps_fractional", 6), ("eps", 7), ("application_utilization", 9)):
        message.field.add(
            name=name,
            number=number,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.OrcaLoadReport"))


Report = _report_class()
VISIBLE = "test-load-bin"
"""gRPC's client takes the trailer for itself: under another name it can be seen."""
AMOUNTS = st.floats(0.0, 1e9)


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_report_is_a_message_that_others_read(utilization: float, calls: float, errors: float) -> None:
    message = Report.FromString(LoadReport(utilization, calls, errors).encode())

    assert (message.application_utilization, message.rps_fractional, message.eps) == (utilization, calls, errors)


def test_the_bytes_are_those_of_the_generated_code_of_others() -> None:
    """What xds-protos 1.85 writes for the same numbers."""
    assert LoadReport(1.5, 3.25, 0.5).encode() == (
        b"1\x00\x00\x00\x00\x00\x00\n@9\x00\x00\x00\x00\x00\x00\xe0?I\x00\x00\x00\x00\x00\x00\xf8?"
    )


@given(st.floats(0.05, 5.0), st.floats(0.0, 1e6))
def test_a_steady_rate_is_known_from_the_beginning(gap_s: float, began_at: float) -> None:
    rate = Rate(began_at)
    for number in range(1, 200):
        rate.observe(began_at + number * gap_s)
        assert rate.value(began_at + number * gap_s) == pytest.approx(1 / gap_s, rel=0.3 * gap_s + 0.01)


def test_a_rate_of_what_has_ceased_fades() -> None:
    rate = Rate(0.0)
    assert rate.value(0.0) == 0.0
    for number in range(100):
        rate.observe(float(number))

    values = [rate.value(99.0 + later) for later in (0.0, 5.0, 10.0, 60.0)]

    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1.0, rel=0.1)
    assert values[-1] < 0.01


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.interceptors.TRAILER", VISIBLE)


def report_of(trailers: object) -> tuple[float, float, float]:
    assert isinstance(trailers, aio.Metadata)
    (data,) = (value for key, value in trailers if key == VISIBLE)
    message = Report.FromString(data)
    return message.application_utilization, message.rps_fractional, message.eps


def test_the_trailer_has_the_name_that_load_balancers_look_for() -> None:
    assert TRAILER == "endpoint-load-metrics-bin"


FAULTS: dict[str, tuple[Exception, bool]] = {
    "INTERNAL": (errors.internal(), True),
    "NON_FINITE_LOGITS": (errors.generation_failed("NON_FINITE_LOGITS"), True),
    "WORKER_LOST": (errors.worker_lost("worker-0", "it has ended"), True),
    "a bug": (KeyError("x"), True),
    "INVALID_ARGUMENT": (errors.undecodable(), False),
    "NOT_FOUND": (errors.model_not_found("a", "b"), False),
    "QUEUE_FULL": (errors.queue_full(1, 1.0), False),
    "TENANT_QUOTA": (errors.tenant_quota("a", 1, 1.0), False),
    "NO_WORKER": (errors.no_worker(), False),
    "DRAINING": (errors.draining(), False),
    "REQUEST_TIMEOUT": (errors.deadline_exceeded(1.0, "queue"), False),
    "a caller that has left": (aio.InternalError("broken pipe"), False),
}


@pytest.mark.usefixtures("visible")
@pytest.mark.parametrize("kind", FAULTS)
async def test_only_what_the_gateway_or_a_worker_did_is_an_error_of_the_load(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, counts = FAULTS[kind]

    def fail() -> NoReturn:
        raise error

    async with serving(FakeWorker()) as served:
        served.clock.advance(10.0)
        monkeypatch.setattr(served.gateway.dispatcher, "check_open", fail)
        with pytest.raises(aio.AioRpcError) as caught:
            await served.caller.generate(request())
        _, calls_per_s, errors_per_s = report_of(caught.value.trailing_metadata())

    assert calls_per_s > 0
    assert (errors_per_s > 0) == counts


@pytest.mark.usefixtures("visible")
async def test_every_end_of_a_call_reports_the_load() -> None:
    async with serving(FakeWorker(says("x"), rows=4, runs_freely=True)) as served:
        served.clock.advance(10.0)
        whole = served.caller.generation.Generate(request())
        stream = served.caller.generation.StreamGenerate(request())
        refused = served.caller.generation.Generate(pb.GenerateRequest())
        models = served.caller.models.ListModels(model_pb2.ListModelsRequest())
        await whole
        assert [message async for message in stream]
        with pytest.raises(aio.AioRpcError) as caught:
            await refused
        await models

        reports = [report_of(await call.trailing_metadata()) for call in (whole, stream, models)]
        _, calls_per_s, errors_per_s = report_of(caught.value.trailing_metadata())

    assert all(calls_per_s > 0 for _, calls_per_s, _ in reports)
    assert (calls_per_s > 0, errors_per_s) == (True, 0.0)


@pytest.mark.usefixtures("visible")
async def test_what_runs_and_what_waits_is_utilization() -> None:
    async with serving(FakeWorker(rows=2), config=Config(listen="127.0.0.1:0")) as served:
        calls = [served.caller.generation.StreamGenerate(request()) for _ in range(5)]
        await served.worker.until(lambda: served.worker.demand == 3)
        models = served.caller.models.ListModels(model_pb2.ListModelsRequest())
        await models

        utilization, _, _ = report_of(await models.trailing_metadata())

        assert utilization == 2.5
        for call in calls:
            call.cancel()
        await served.nothing_runs()
