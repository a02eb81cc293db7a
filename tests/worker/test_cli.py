"""The worker's flags."""

import sys
from dataclasses import fields
from typing import Any

import pytest
import torch

import client
from worker import server
from worker.cli import EX_CONFIG, main, parser, quantize_parser
from worker.domain.config import Config
from worker.domain.refusal import doing
from worker.flags import RANGES, check

OTHER_VALUES: dict[str, tuple[list[str], Any]] = {
    "model": (["--model", "a/b"], "a/b"),
    "name": (["--name", "n"], "n"),
    "revision": (["--revision", "r"], "r"),
    "quantization": (["--quantization", "int8"], "int8"),
    "double_quantization": (["--no-double-quantization"], False),
    "int8_threshold": (["--int8-threshold", "0"], 0.0),
    "skip_modules": (["--skip-modules", "q_proj, model.layers.0"], ("q_proj", "model.layers.0")),
    "compute_dtype": (["--compute-dtype", "float16"], "float16"),
    "cpu_level": (["--cpu-level", "generic"], "generic"),
    "activations": (["--activations", "int8"], "int8"),
    "device_map": (["--device-map", "cpu"], "cpu"),
    "max_memory": (["--max-memory", "0=20GiB,cpu=60GiB"], "0=20GiB,cpu=60GiB"),
    "offload_folder": (["--offload-folder", "/x"], "/x"),
    "context_length": (["--context-length", "512"], 512),
    "listen": (["--listen", "unix:/x"], "unix:/x"),
    "threads": (["--threads", "3"], 3),
    "max_rows": (["--max-rows", "5"], 5),
    "memory_gib": (["--memory-gib", "0.5"], 0.5),
    "memory_share": (["--memory-share", "0.3"], 0.3),
    "workers_on_gpu": (["--workers-on-gpu", "3"], 3),
    "cuda_graphs": (["--no-cuda-graphs"], False),
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
        ["--thread", "2"],
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
        ({"memory_share": -0.1}, "--memory-share"),
        ({"memory_share": 1.1}, "--memory-share"),
        ({"memory_share": float("nan")}, "--memory-share"),
        ({"memory_share": 0.5, "memory_gib": 1.0}, "--memory-gib"),
        ({"context_length": -1}, "--context-length"),
        ({"context_length": 15}, "--context-length"),
        ({"context_length": 2**31}, "--context-length"),
        ({"int8_threshold": -1.0}, "--int8-threshold"),
        ({"int8_threshold": float("nan")}, "--int8-threshold"),
        ({"int8_threshold": float("inf")}, "--int8-threshold"),
        ({"device_map": "everywhere"}, "--device-map"),
        ({"device_map": '{"model": "tape"}'}, "--device-map"),
        ({"max_memory": "20GiB"}, "--max-memory"),
        ({"max_memory": "0=20GiB", "device_map": "cpu"}, "--max-memory"),
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
        ({"listen": "::1:50051"}, "--listen"),
        ({"listen": "[::1]"}, "--listen"),
        ({"listen": "http://localhost:1"}, "--listen"),
        ({"listen": "localhost: 1"}, "--listen"),
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
        {"memory_share": 1.0},
        {"int8_threshold": 0.0, "context_length": 16, "skip_modules": ("lm_head",)},
        {"device_map": '{"model": 0, "lm_head": "disk"}'},
        {"device_map": "balanced", "max_memory": "0=20GiB,cpu=1.5GB"},
        {"listen": "unix:worker.sock"},
        {"listen": "unix:/a:b/worker.sock"},
        {"listen": "[::1]:65535"},
    ],
    ids=str,
)
def test_check_finds_nothing_wrong_with_good_values(changes: dict[str, Any]) -> None:
    assert check(Config(**changes)) == ""


@pytest.mark.parametrize("error", [server.ListenError("taken"), server.EngineDiedError("hangs")], ids=repr)
def test_what_a_new_process_may_mend_ends_this_one_with_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve(*_: object) -> None:
        raise error

    monkeypatch.setattr(server, "prepare", lambda _: None)
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        sys.exit(main([]))
    assert ended.value.code == 1
    assert f"textserve-worker: {error}" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "threads"), [([], 1), (["--threads", "3"], 3)])
def test_a_worker_takes_no_more_cpus_than_its_control_group_leaves(
    flags: list[str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr("worker.cli.available_cpus", lambda: 1)
    monkeypatch.setattr("torch.set_num_threads", taken.append)
    assert main(["--model", "/there/is/none", *flags]) == EX_CONFIG
    assert taken == [threads]


def caused(by: Exception) -> ValueError:
    error = ValueError("its weights cannot be loaded")
    error.__cause__ = by
    return error


NO_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
LOST = torch.AcceleratorError("CUDA error: unspecified launch failure")
PASSING = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), NO_MEMORY, LOST]
LASTING = [
    *(kind("why") for kind in (OSError, ValueError, RuntimeError, AssertionError, ImportError, RecursionError)),
    KeyError("rope"),
    Exception("untagged enum"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((error, 1) for error in (*PASSING, *map(caused, PASSING))),
        *((error, EX_CONFIG) for error in (*LASTING, *map(caused, LASTING))),
    ],
    ids=repr,
)
def test_whatever_preparing_raises_ends_with_78_and_a_line_but_for_memory_and_a_lost_device(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(_: Config) -> None:
        with doing("warming up"):
            raise error

    monkeypatch.setattr(server, "prepare", prepare)
    assert main(["--model", "a/b"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("textserve-worker: cannot serve a/b: warming up: ")] == lines


def test_the_traceback_is_in_the_log_at_debug_level_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def prepare(_: Config) -> None:
        raise KeyError("rope")

    monkeypatch.setattr(server, "prepare", prepare)
    for level, is_there in (("INFO", False), ("DEBUG", True)):
        caplog.set_level(level)
        assert main([]) == EX_CONFIG
        assert ("Traceback" in caplog.text) is is_there


@pytest.mark.parametrize("flags", [["--max-rows", "0"], ["--max-rows", "many"]], ids=str)
def test_a_supervisor_is_told_on_standard_output_what_stands_on_standard_error(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*flags, "--exit-with-stdin"])
    except SystemExit as end:
        code = end.code  # type: ignore[assignment] # an int
    assert code == EX_CONFIG
    told, errors = capsys.readouterr()
    assert told == errors.replace("textserve-worker: ", "textserve-worker refused ")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["quantize", "a/b", "out"]], ids=str)
def test_an_installation_without_torch_is_no_reason_to_try_again(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(arguments) == EX_CONFIG
    assert "pip install 'textserve[worker]'" in capsys.readouterr().err


def test_values_out_of_range_end_with_the_code_for_bad_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--max-rows", "0"]) == EX_CONFIG
    assert capsys.readouterr().err == "textserve-worker: --max-rows must be from 1 to 4,096, not 0\n"


NUMBERS = [field for field in fields(Config) if field.type in (int, float)]


def flag_of(field: Any) -> str:
    return "--" + str(field.name).replace("_", "-")


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that is refused says: one line."""
    try:
        code: Any = main(words)
    except SystemExit as end:
        code = end.code
    assert code == EX_CONFIG
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return str(lines[0])


@pytest.mark.parametrize("field", NUMBERS, ids=flag_of)
def test_a_number_out_of_range_is_refused_with_its_flag(field: Any, capsys: pytest.CaptureFixture[str]) -> None:
    least, most = RANGES[field.name]
    beyond = [str(least - 1), str(most + 1), "1.5" if field.type is int else "soon"]
    for text in ("", "many", "nan", "inf", "-inf", "-1", "-1e-1", "1e400", "9" * 400, "1,5", "0x10", "--", *beyond):
        for words in ([flag_of(field), text], [f"{flag_of(field)}={text}"]):
            line = refusal(words, capsys)
            assert f"{flag_of(field)}: must be a " in line or f"{flag_of(field)} must be from " in line


@pytest.mark.parametrize("field", NUMBERS, ids=flag_of)
def test_either_end_of_a_range_is_in_it(field: Any) -> None:
    least, most = RANGES[field.name]
    assert 0 <= least <= field.default <= most < float("inf")
    for bound in (least, most):
        assert check(parsed(flag_of(field), str(field.type(bound)))) == ""


@pytest.mark.parametrize("text", ["--", "-x", "--max-rows", "-", "=", "a b", "-- x", ""])
def test_a_flag_takes_any_value_in_one_word_and_in_two(text: str) -> None:
    for words in (["--model", text], [f"--model={text}"]):
        config = parsed(*words, "--max-rows", "5")
        assert (config.model, config.max_rows) == (text, 5)


def test_folders_of_the_quantize_command_may_begin_with_a_dash() -> None:
    given = quantize_parser().parse_args(["--revision", "--", "--", "-model", "-out"])
    assert (given.revision, given.model, given.out.name) == ("--", "-model", "-out")


@pytest.mark.parametrize("words", [["--version"], ["quantize", "--version"]])
def test_the_version_is_that_of_the_project(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    assert capsys.readouterr().out == f"textserve-worker {client.__version__}\n"


def test_the_quantize_command_has_the_flags_that_change_a_checkpoint_and_their_defaults() -> None:
    given = vars(quantize_parser().parse_args(["a/b", "out"]))
    assert (given.pop("model"), given.pop("out").name, given.pop("overwrite")) == ("a/b", "out", False)
    assert given == {name: getattr(Config(), name) for name in given}
    assert {"quantization", "double_quantization", "int8_threshold", "skip_modules", "compute_dtype"} < given.keys()


@pytest.mark.parametrize(
    "flags", [[], ["model"], ["model", "out", "--quantization", "int3"], ["model", "out", "--max-rows", "3"]], ids=str
)
def test_a_bad_quantize_command_ends_with_the_code_for_bad_configuration_and_one_line(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["quantize", *flags])
    assert end.value.code == EX_CONFIG
    assert capsys.readouterr().err.startswith("textserve-worker quantize: ")
