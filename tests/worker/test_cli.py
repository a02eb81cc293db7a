"""The worker's flags."""

from dataclasses import fields
from typing import Any

import pytest

from worker.cli import EX_CONFIG, check, main, parser
from worker.config import Config

OTHER_VALUES: dict[str, tuple[list[str], Any]] = {
    "model": (["--model", "a/b"], "a/b"),
    "name": (["--name", "n"], "n"),
    "revision": (["--revision", "r"], "r"),
    "quantization": (["--quantization", "int8"], "int8"),
    "double_quantization": (["--no-double-quantization"], False),
    "compute_dtype": (["--compute-dtype", "float16"], "float16"),
    "device_map": (["--device-map", "cpu"], "cpu"),
    "listen": (["--listen", "unix:/x"], "unix:/x"),
    "threads": (["--threads", "3"], 3),
    "max_rows": (["--max-rows", "5"], 5),
    "memory_gib": (["--memory-gib", "0.5"], 0.5),
    "chunk_tokens": (["--chunk-tokens", "9"], 9),
    "exit_with_stdin": (["--exit-with-stdin"], True),
    "log_level": (["--log-level", "error"], "error"),
    "drain_s": (["--drain-s", "1.5"], 1.5),
}


def parsed(*flags: str) -> Config:
    return Config(**vars(parser().parse_args(flags)))


def test_without_flags_the_config_is_the_default_one() -> None:
    assert parsed() == Config()


@pytest.mark.parametrize("name", [field.name for field in fields(Config)])
def test_each_field_of_the_config_is_a_flag_with_help(name: str) -> None:
    flags, value = OTHER_VALUES[name]
    assert getattr(parsed(*flags), name) == value != getattr(Config(), name)
    (action,) = [action for action in parser()._actions if action.dest == name]
    assert action.help


@pytest.mark.parametrize("field", fields(Config), ids=lambda field: field.name)
def test_the_help_names_no_other_default_than_the_configs(field: Any) -> None:
    (action,) = [action for action in parser()._actions if action.dest == field.name]
    if isinstance(field.default, int | float) and field.default and not isinstance(field.default, bool):
        assert f"(default: {field.default:g})" in (action.help or "")


@pytest.mark.parametrize(
    "flags",
    [
        ["--quantization", "int3"],
        ["--compute-dtype", "float8"],
        ["--max-rows", "many"],
        ["--drain-s", "soon"],
        ["--no-such-flag"],
        ["surplus"],
        ["--model"],
    ],
    ids=" ".join,
)
def test_a_bad_flag_ends_with_the_code_for_bad_configuration_and_one_line(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == EX_CONFIG == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("textserve-worker: ")


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"max_rows": 0}, "--max-rows"),
        ({"max_rows": -3}, "--max-rows"),
        ({"chunk_tokens": 0}, "--chunk-tokens"),
        ({"threads": -1}, "--threads"),
        ({"memory_gib": -0.5}, "--memory-gib"),
        ({"memory_gib": float("nan")}, "--memory-gib"),
        ({"memory_gib": float("inf")}, "--memory-gib"),
        ({"drain_s": -1.0}, "--drain-s"),
        ({"drain_s": float("nan")}, "--drain-s"),
        ({"drain_s": float("inf")}, "--drain-s"),
        ({"listen": ""}, "--listen"),
        ({"listen": "127.0.0.1"}, "--listen"),
        ({"listen": ":50051"}, "--listen"),
        ({"listen": "127.0.0.1:99999"}, "--listen"),
        ({"listen": "127.0.0.1:-1"}, "--listen"),
        ({"listen": "127.0.0.1:http"}, "--listen"),
        ({"listen": "unix:"}, "--listen"),
    ],
    ids=str,
)
def test_check_names_the_flag_that_is_out_of_range(changes: dict[str, Any], flag: str) -> None:
    assert flag in check(Config(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_rows": 1, "chunk_tokens": 1},
        {"drain_s": 0.0, "memory_gib": 0.001},
        {"listen": "unix:worker.sock"},
        {"listen": "unix:/a:b/worker.sock"},
        {"listen": "[::1]:65535"},
    ],
    ids=str,
)
def test_check_finds_nothing_wrong_with_good_values(changes: dict[str, Any]) -> None:
    assert check(Config(**changes)) == ""


def test_values_out_of_range_end_with_the_code_for_bad_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--max-rows", "0"]) == EX_CONFIG
    assert capsys.readouterr().err == "textserve-worker: --max-rows and --chunk-tokens must be at least 1\n"
