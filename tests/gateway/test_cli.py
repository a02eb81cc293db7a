"""Flags and environment variables are the fields of Config."""

import math
from dataclasses import Field, fields, replace
from typing import Any

import pytest

import client
from gateway.cli import parse
from gateway.config import Config, Tenant
from gateway.domain.tenancy import Priority
from gateway.process import build_pool, worker_command
from gateway.workers.pool.embedded import EmbeddedPool
from gateway.workers.pool.static import StaticPool
from tests.fakes import FakeWorker
from tests.gateway.serving import LOCAL, serving
from textserve.v1 import model_pb2

TRUST = "--trust-tenant-metadata"
OTHERS = Tenant("*", 0.5, Priority.BATCH)


def test_without_flags_it_is_the_default() -> None:
    assert parse([], {}) == Config()


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--listen", "0.0.0.0:1"], "listen", "0.0.0.0:1"),
        (["--model", "m"], "model", "m"),
        (["--workers", "3"], "workers", 3),
        (["--listen", "[::1]:0"], "listen", "[::1]:0"),
        (["--listen", "unix:gateway.sock"], "listen", "unix:gateway.sock"),
        (["--worker", "a:1", "--worker", "b:2"], "worker", ("a:1", "b:2")),
        (["--worker", "[::1]:1", "--worker", "unix:/w.sock"], "worker", ("[::1]:1", "unix:/w.sock")),
        (["--quantization", "nf4"], "quantization", "nf4"),
        (["--reflection"], "reflection", True),
        (["--no-reflection"], "reflection", False),
        (["--max-queued", "7"], "max_queued", 7),
        (["--max-queued-tokens", "7"], "max_queued_tokens", 7),
        (["--max-tenant-queued", "7"], "max_tenant_queued", 7),
        (["--max-tenant-queued-tokens", "7"], "max_tenant_queued_tokens", 7),
        (["--trust-tenant-metadata"], "trust_tenant_metadata", True),
        ([TRUST, "--tenant", "a=2", "--tenant", "*=0.5:batch"], "tenant", (Tenant("a", 2.0), OTHERS)),
        ([TRUST, "--tenant", "a=b=1:default"], "tenant", (Tenant("a=b", 1.0, Priority.DEFAULT),)),
        (["--max-message-bytes", "7"], "max_message_bytes", 7),
        (["--max-connection-calls", "7"], "max_connection_calls", 7),
        (["--max-wait", "1e-1"], "max_wait", 0.1),
        (["--request-timeout", "1.5"], "request_timeout", 1.5),
        (["--worker-wait", "1.5"], "worker_wait", 1.5),
        (["--grace", "0"], "grace", 0.0),
        (["--log-level", "debug"], "log_level", "debug"),
        (["--", "--threads", "2", "--", "-x"], "worker_args", ("--threads", "2", "--", "-x")),
    ],
)
def test_a_flag_sets_its_field(argv: list[str], field: str, value: object) -> None:
    assert getattr(parse(argv, {}), field) == value


@pytest.mark.parametrize(
    ("name", "given", "field", "value"),
    [
        ("TEXTSERVE_LISTEN", "0.0.0.0:1", "listen", "0.0.0.0:1"),
        ("TEXTSERVE_WORKERS", "3", "workers", 3),
        ("TEXTSERVE_WORKER", "a:1,b:2", "worker", ("a:1", "b:2")),
        ("TEXTSERVE_WORKER", " a:1, b:2 ,", "worker", ("a:1", "b:2")),
        ("TEXTSERVE_WORKER", "", "worker", ()),
        ("TEXTSERVE_WORKERS", "", "workers", 0),
        ("TEXTSERVE_WORKERS", " 3\n", "workers", 3),
        ("TEXTSERVE_REFLECTION", "", "reflection", False),
        ("TEXTSERVE_REFLECTION", "ON", "reflection", True),
        ("TEXTSERVE_REFLECTION", "No", "reflection", False),
        ("TEXTSERVE_REFLECTION", "true", "reflection", True),
        ("TEXTSERVE_REFLECTION", "0", "reflection", False),
        ("TEXTSERVE_GRACE", "2.5", "grace", 2.5),
        ("TEXTSERVE_MODEL", "", "model", ""),
    ],
)
def test_an_environment_variable_sets_its_field(name: str, given: str, field: str, value: object) -> None:
    assert getattr(parse([], {name: given}), field) == value


def test_a_flag_goes_before_the_environment() -> None:
    config = parse(["--listen", "a:1", "--worker", "b:2"], {"TEXTSERVE_LISTEN": "c:3", "TEXTSERVE_WORKER": "d:4"})

    assert (config.listen, config.worker) == ("a:1", ("b:2",))


@pytest.mark.parametrize(
    "argv",
    [
        ["--workers", "-1"],
        ["--workers", "many"],
        ["--max-queued", "0"],
        ["--max-tenant-queued-tokens", "0"],
        ["--tenant", "a=1"],
        *([TRUST, "--tenant", text] for text in ("a", "=1", "a=0", "a=inf", "a=nan", "a=1:urgent", "a=1:BATCH", "a=x")),
        ["--grace", "-1"],
        ["--grace", "nan"],
        ["--request-timeout", "inf"],
        ["--quantization", "int3"],
        ["--worker", "a:1", "--model", "m"],
        ["--worker", "a:1", "--", "--threads", "2"],
        ["--", "--listen", "a:1"],
        ["--", "--listen=a:1"],
        ["--", "--max-rows", "2", "--no-exit-with-stdin"],
        ["--list", "a:1"],
        ["--listen"],
        ["--worker", "a:1,b:2"],
        ["extra"],
    ],
)
def test_what_makes_no_sense_is_refused_with_a_message(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv, {})

    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def refusal(argv: list[str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a refused command line: the sentence."""
    with pytest.raises(SystemExit) as caught:
        parse(argv, environ)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


NUMBERS: "list[Field[Any]]" = [field for field in fields(Config) if field.type in (int, float)]
NO_NUMBERS = ["", "many", "nan", "inf", "-inf", "-1", "-1e-1", "1e400", "9" * 30, "1,5", "0x10", "--"]


def flag_of(field: "Field[Any]") -> str:
    return "--" + field.name.replace("_", "-")


def variable_of(field: "Field[Any]") -> str:
    return f"TEXTSERVE_{field.name.upper()}"


@pytest.mark.parametrize("field", NUMBERS, ids=flag_of)
def test_a_number_out_of_range_is_refused_with_its_flag_and_its_range(
    field: "Field[Any]", capsys: pytest.CaptureFixture[str]
) -> None:
    setting = field.metadata["setting"]
    step = 1 if field.type is int else 0.0005
    beyond = [str(setting.least - step), f"{setting.most + 1:.0f}", "1.5" if field.type is int else "soon"]
    for text in (*NO_NUMBERS, *beyond):
        for words in ([flag_of(field), text], [f"{flag_of(field)}={text}"]):
            sentence = refusal(words, {}, capsys)
            assert f"argument {flag_of(field)}: must be a " in sentence
            assert f"number from {setting.least:,.10g} to {setting.most:,.10g}, not {text!r}" in sentence
        if text:
            sentence = refusal([], {variable_of(field): text}, capsys)
            assert f"{variable_of(field)} must be a " in sentence
            assert sentence.endswith(f", not {text!r}")


@pytest.mark.parametrize("field", NUMBERS, ids=flag_of)
def test_every_number_has_bounds_and_they_are_in_its_range(field: "Field[Any]") -> None:
    setting = field.metadata["setting"]
    assert 0 <= setting.least <= field.default <= setting.most < math.inf
    for bound in (setting.least, setting.most):
        text = str(bound) if field.type is float else f"{bound:.0f}"
        assert getattr(parse([flag_of(field), text], {}), field.name) == bound
        assert getattr(parse([], {variable_of(field): text}), field.name) == bound


@pytest.mark.parametrize("name", [field.name for field in NUMBERS])
async def test_a_gateway_runs_at_either_end_of_every_range(name: str) -> None:
    setting = Config.__dataclass_fields__[name].metadata["setting"]
    kind = type(getattr(Config(), name))
    for bound in (setting.least, setting.most):
        config = replace(LOCAL, **{name: kind(bound)})
        async with serving(FakeWorker(), config=config) as served:
            answer = await served.caller.models.ListModels(model_pb2.ListModelsRequest())
            assert len(answer.models) == 1


@pytest.mark.parametrize("text", ["ture", "2", "-1", "none", "yes please", "--"])
@pytest.mark.parametrize("name", [field.name for field in fields(Config) if field.type is bool])
def test_a_variable_that_is_neither_yes_nor_no_is_refused(
    name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"TEXTSERVE_{name.upper()} must be one of 1, true, " in refusal(
        [], {f"TEXTSERVE_{name.upper()}": text}, capsys
    )


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "127.0.0.1",
        ":50051",
        "localhost:",
        "localhost:http",
        "localhost:65536",
        "localhost:-1",
        "localhost: 1",
        "::1",
        "::1:50051",
        "[::1]",
        "[::1",
        "unix:",
        "http://localhost:1",
        "localhost:1/",
        "--",
    ],
)
@pytest.mark.parametrize("name", ["listen", "worker"])
def test_an_address_that_grpc_would_take_for_another_is_refused(
    name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([f"--{name}", text], [f"--{name}={text}"]):
        assert f"argument --{name}: must be HOST:PORT" in refusal(words, {}, capsys)
    assert f"TEXTSERVE_{name.upper()} must be HOST:PORT" in refusal([], {f"TEXTSERVE_{name.upper()}": text}, capsys)


def test_only_what_listens_may_take_any_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--listen", "localhost:0"], {}).listen == "localhost:0"
    assert "from 1 to 65535" in refusal(["--worker", "localhost:0"], {}, capsys)


def test_the_environment_is_checked_like_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert "TEXTSERVE_QUANTIZATION must be one of nf4" in refusal([], {"TEXTSERVE_QUANTIZATION": "int3"}, capsys)
    assert "TEXTSERVE_LOG_LEVEL must be one of debug" in refusal([], {"TEXTSERVE_LOG_LEVEL": "loud"}, capsys)
    assert "TEXTSERVE_TENANT must be NAME=WEIGHT" in refusal([TRUST], {"TEXTSERVE_TENANT": "b=1, a"}, capsys)


def test_what_a_flag_overrides_is_not_looked_at() -> None:
    assert parse(["--workers", "2"], {"TEXTSERVE_WORKERS": "many"}).workers == 2


@pytest.mark.parametrize("text", ["--", "-x", "--workers", "-", "=", "a b", "-- x"])
def test_a_flag_takes_any_value_in_one_word_and_in_two(text: str) -> None:
    for words in (["--model", text], [f"--model={text}"]):
        config = parse([*words, "--workers", "2", "--", "--model", "--"], {})
        assert (config.model, config.workers, config.worker_args) == (text, 2, ("--model", "--"))


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--version"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"textserve-gateway {client.__version__}\n"


def test_the_environment_lists_tenants_with_commas() -> None:
    config = parse([TRUST], {"TEXTSERVE_TENANT": "a=2, *=0.5:batch"})

    assert config.tenant == (Tenant("a", 2.0), OTHERS)


def test_every_field_has_a_flag_and_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})

    text = capsys.readouterr().out
    for field in fields(Config):
        if field.name != "worker_args":
            assert f"--{field.name.replace('_', '-')}" in text
    assert "Requests that may wait for a worker" in text


def test_workers_are_started_with_model_and_quantization() -> None:
    command = worker_command(parse(["--model", "m", "--quantization", "int8"], {}))

    assert command[1:] == ["-m", "worker", "--log-level", "info", "--model", "m", "--quantization", "int8"]
    assert worker_command(Config())[1:] == ["-m", "worker", "--log-level", "info"]


def test_given_workers_are_attached_to_and_others_started() -> None:
    assert isinstance(build_pool(parse(["--worker", "a:1"], {})), StaticPool)
    embedded = build_pool(parse(["--workers", "3"], {}))
    assert isinstance(embedded, EmbeddedPool)
    assert embedded.size == 3
