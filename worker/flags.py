"""Flags that derive from the fields of `Config`, and what their values may be."""

import argparse
import math
from collections.abc import Iterable
from dataclasses import Field, fields
from typing import Any, get_args

from .config import QUANTIZATIONS, Config
from .placement import STRATEGIES, parse_device_map, parse_max_memory

_HELP = {
    "model": "folder of a transformers model, or its name on the hub (default: the bundled tutor)",
    "name": "name to serve the model under (default: the folder's last part, or the hub name)",
    "revision": "branch, tag or commit on the hub",
    "quantization": "for a checkpoint that is not quantized (default: nf4)",
    "double_quantization": "quantize the scales of 4-bit blocks, too (default: yes)",
    "int8_threshold": "outlier threshold of LLM.int8; 0 keeps rows independent of each other (default: 6)",
    "skip_modules": "linear layers that stay unquantized: names, ends of names or patterns, with commas between",
    "compute_dtype": "type of activations (default: bfloat16 where the device has it, else float32)",
    "activations": "int8 rounds what 4-bit layers multiply with: inexact, faster, on CPUs with AVX512-VNNI only "
    "(default: exact)",
    "device_map": "auto, balanced, balanced_low_0, sequential, a device, or a JSON object of modules and devices "
    "(default: auto)",
    "max_memory": "most memory for weights on each device, such as 0=20GiB,cpu=60GiB (default: what is free)",
    "offload_folder": "folder for weights that are offloaded to disk",
    "context_length": "most tokens of a sequence (default: the model's own limit)",
    "listen": "HOST:PORT or unix:PATH (default: 127.0.0.1 and a free port)",
    "threads": "compute threads on a CPU",
    "max_rows": "most sequences that run at once (default: 32)",
    "memory_gib": "memory for keys and values, in GiB (default: a share of what is free)",
    "memory_share": "the same as a share of the device's free memory, 0 to 1",
    "cuda_graphs": "capture decode steps on a GPU (default: yes)",
    "chunk_tokens": "most prompt tokens read in one step while others wait (default: 256)",
    "exit_with_stdin": "end when standard input ends",
    "log_level": "least level to log on standard error (default: info)",
    "drain_s": "seconds to wait for running sequences when told to stop (default: 30)",
}


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
        parser.add_argument(flag, type=type(default), choices=choices, default=default, help=text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check(config: Config) -> str:
    """Returns what is wrong with a config; empty if nothing is."""
    if config.max_rows < 1 or config.chunk_tokens < 1:
        return "--max-rows and --chunk-tokens must be at least 1"
    if config.threads < 0 or not 0 <= config.memory_gib < math.inf or not 0 <= config.drain_s < math.inf:
        return "--threads, --memory-gib and --drain-s must be finite, and not negative"
    if config.context_length < 0 or not 0 <= config.int8_threshold < math.inf:
        return "--context-length and --int8-threshold must be finite, and not negative"
    if not 0 <= config.memory_share <= 1 or (config.memory_share and config.memory_gib):
        return "--memory-share must be from 0 to 1, and is not to be given beside --memory-gib"
    if not _is_address(config.listen):
        return "--listen must be HOST:PORT, with a port up to 65535, or unix:PATH"
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
    """Whether gRPC would listen where it was told: of a port above 65535 it silently drops the upper bits."""
    if text.startswith("unix:"):
        return text != "unix:"
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) <= 65535
