"""Flags that derive from the fields of `Config`, and what their values may be."""

import argparse
import re
import reprlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, get_args

from .domain.config import LEAST_CONTEXT, QUANTIZATIONS, Config
from .loading.cpu_level import cpu_level
from .loading.placement import STRATEGIES, parse_device_map, parse_max_memory

_HELP = {
    "model": "folder of a transformers model, or its name on the hub (default: the bundled tutor)",
    "name": "name to serve the model under (default: the folder's last part, or the hub name)",
    "revision": "branch, tag or commit on the hub",
    "quantization": "for a checkpoint that is not quantized (default: nf4)",
    "double_quantization": "quantize the scales of 4-bit blocks, too (default: yes)",
    "int8_threshold": "outlier threshold of LLM.int8; 0 keeps rows independent of each other (default: 6)",
    "skip_modules": "linear layers that stay unquantized: names, ends of names or patterns, with commas between",
    "compute_dtype": "type of activations (default: bfloat16 where the device has it, else float16 on a GPU, float32 "
    "on a CPU)",
    "cpu_level": "what is made use of in a CPU: avx512bf16, avx512, avx2, neon or generic (default: all it can do)",
    "activations": "what 4-bit layers multiply with on a CPU: exact or rounded to int16, as is faster (auto), or int8, "
    "which is inexact, with AVX512-VNNI only (default: auto)",
    "device_map": "auto, balanced, balanced_low_0, sequential, a device, or a JSON object of modules and devices "
    "(default: auto)",
    "max_memory": "most memory for weights on each device, such as 0=20GiB,cpu=60GiB (default: what is free)",
    "offload_folder": "folder for weights that are offloaded to disk",
    "context_length": "most tokens of a sequence (default: the model's own limit)",
    "listen": "HOST:PORT, [IPV6]:PORT or unix:PATH (default: 127.0.0.1 and a free port)",
    "threads": "compute threads on a CPU",
    "max_rows": "most sequences that run at once (default: 32)",
    "memory_gib": "memory for keys and values, in GiB (default: a share of what is free)",
    "memory_share": "the same as a share of the device's free memory, 0 to 1",
    "workers_on_gpu": "workers that share the GPU, each of which takes its part of the memory (default: 1)",
    "cuda_graphs": "capture decode steps on a GPU (default: yes)",
    "chunk_tokens": "most prompt tokens read in one step while others wait (default: 256)",
    "exit_with_stdin": "end when standard input ends",
    "log_level": "least level to log on standard error (default: info)",
    "drain_s": "seconds to wait for running sequences when told to stop (default: 30)",
}


_HOST_AND_PORT = re.compile(r"(?:\[[^\[\]]+\]|[^:/\[\]\s]+):([0-9]{1,5})")


class Range(NamedTuple):
    """What a number may be, both ends included."""

    least: float
    most: float


RANGES = {
    "int8_threshold": Range(0, 1e6),
    "context_length": Range(0, 1_000_000_000),
    "threads": Range(0, 1024),
    "max_rows": Range(1, 4096),
    "memory_gib": Range(0, 1e6),
    "memory_share": Range(0, 1),
    "workers_on_gpu": Range(1, 64),
    "chunk_tokens": Range(1, 1_000_000),
    "drain_s": Range(0, 1e9),
}
"""Of every field that is a number."""


class Parser(argparse.ArgumentParser):
    """Takes the word behind a flag as its value, whatever it begins with, as getopt does.

    By itself argparse takes the value in "--model -x" for a flag, and drops the one in "--model=--". Flags cannot be
    abbreviated: what abbreviates one today is ambiguous with the next one added.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(allow_abbrev=False, **settings)
        self.add_argument("--version", action="version", version=f"textserve-worker {_version()}")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - one signature for argparse's three
        self,
        args: Iterable[str] | None = None,
        namespace: Any = None,  # noqa: ANN401 - as argparse's
    ) -> tuple[Any, list[str]]:
        """As argparse's, with each flag and its value in one word."""
        return super().parse_known_args(self._joined(sys.argv[1:] if args is None else args), namespace)

    def _joined(self, words: Iterable[str]) -> list[str]:
        joined: list[str] = []
        rest = iter(words)
        for word in rest:
            if word == "--":
                return [*joined, word, *rest]
            action = self._option_string_actions.get(word)
            value = next(rest, None) if action is not None and action.nargs is None else None
            joined.append(word if value is None else f"{word}={value}")
        return joined

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:  # noqa: ANN401 - as argparse's
        if action.option_strings and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)


def _version() -> str:
    try:
        return version("textserve")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Adds a flag for each field of Config, or for those that are named."""
    chosen = None if names is None else frozenset(names)
    for setting in fields(Config):
        if chosen is None or setting.name in chosen:
            _add_flag(parser, setting)


def _add_flag(parser: argparse.ArgumentParser, setting: Field[Any]) -> None:
    flag, default, text = "--" + setting.name.replace("_", "-"), setting.default, _HELP[setting.name]
    choices = QUANTIZATIONS if setting.name == "quantization" else get_args(setting.type) or None
    if isinstance(default, bool):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
    elif isinstance(default, tuple):
        parser.add_argument(flag, type=_names, default=default, help=text)
    else:
        kind = _number(setting.type) if setting.name in RANGES else str
        parser.add_argument(flag, type=kind, choices=choices, default=default, help=text)


def _number(kind: Any) -> Callable[[str], float]:  # noqa: ANN401 - int or float, as a field's type
    def read(text: str) -> float:
        try:
            number: float = kind(text)
        except ValueError:
            name = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"must be a {name}, not {text!r}") from None
        return number

    return read


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check(config: Config) -> str:
    """Returns what is wrong with a config; empty if nothing is."""
    for name, (least, most) in RANGES.items():
        # Not the other way round: no comparison holds for a NaN.
        if not least <= getattr(config, name) <= most:
            flag = "--" + name.replace("_", "-")
            return f"{flag} must be from {least:,.10g} to {most:,.10g}, not {reprlib.repr(getattr(config, name))}"
    if 0 < config.context_length < LEAST_CONTEXT:
        return f"--context-length must be 0, or at least {LEAST_CONTEXT}, not {config.context_length}"
    if config.memory_share and config.memory_gib:
        return "--memory-share is not to be given beside --memory-gib"
    try:
        cpu_level(config.cpu_level)
    except ValueError as error:
        return str(error)
    if not _is_address(config.listen):
        return (
            "--listen must be HOST:PORT with a port from 0 to 65535 (and brackets around an IPv6 address), or"
            f" unix:PATH, not {config.listen!r}"
        )
    return _check_placement(config)


def _check_placement(config: Config) -> str:
    try:
        parse_device_map(config.device_map)
    except ValueError as error:
        return f"--device-map: {error}"
    try:
        memory = parse_max_memory(config.max_memory)
    except ValueError as error:
        return f"--max-memory: {error}"
    if memory and config.device_map not in STRATEGIES:
        return f"--max-memory is for a --device-map of {', '.join(sorted(STRATEGIES))} only"
    return ""


def _is_address(text: str) -> bool:
    """Whether gRPC would listen where it was told: without a port it takes 443, and of a large one the lower bits."""
    if text.startswith("unix:"):
        return text != "unix:"
    match = _HOST_AND_PORT.fullmatch(text)
    return match is not None and int(match[1]) <= 65535
