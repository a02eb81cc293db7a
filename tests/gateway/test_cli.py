"""Flags and environment variables are the fields of Config."""

from dataclasses import fields

import pytest

from gateway.cli import parse
from gateway.config import Config, Tenant
from gateway.pool.embedded import EmbeddedPool
from gateway.pool.static import StaticPool
from gateway.serve import build_pool, worker_command
from gateway.tenancy import Priority

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
        (["--worker", "a:1", "--worker", "b:2"], "worker", ("a:1", "b:2")),
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
        ["--workers", "0"],
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
        ["--list", "a:1"],
        ["extra"],
    ],
)
def test_what_makes_no_sense_is_refused_with_a_message(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv, {})

    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_environment_is_checked_like_the_flags() -> None:
    with pytest.raises(SystemExit):
        parse([], {"TEXTSERVE_QUANTIZATION": "int3"})
    with pytest.raises(SystemExit):
        parse([], {"TEXTSERVE_WORKERS": "many"})
    with pytest.raises(SystemExit):
        parse([TRUST], {"TEXTSERVE_TENANT": "a"})


def test_the_environment_lists_tenants_with_commas() -> None:
    config = parse([TRUST], {"TEXTSERVE_TENANT": "a=2,*=0.5:batch"})

    assert config.tenant == (Tenant("a", 2.0), OTHERS)


def test_every_field_has_a_flag_and_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})

    text = capsys.readouterr().out
    for field in fields(Config):
        if field.name != "worker_args":
            assert f"--{field.name.replace('_', '-')}" in text
    assert "Requests that may wait for a worker" in text


def test_workers_are_started_with_model_quantization_and_their_own_flags() -> None:
    command = worker_command(parse(["--model", "m", "--quantization", "int8", "--", "--max-rows", "4"], {}))

    own = ["--log-level", "info", "--model", "m", "--quantization", "int8"]
    assert command[1:] == ["-m", "worker", *own, "--max-rows", "4"]
    assert worker_command(Config())[1:] == ["-m", "worker", "--log-level", "info"]


def test_given_workers_are_attached_to_and_others_started() -> None:
    assert isinstance(build_pool(parse(["--worker", "a:1"], {})), StaticPool)
    embedded = build_pool(parse(["--workers", "3"], {}))
    assert isinstance(embedded, EmbeddedPool)
    assert embedded.size == 3
