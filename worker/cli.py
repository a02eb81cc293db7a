"""The command line of the worker; flags derive from the fields of `Config`."""

import argparse
import asyncio
import logging
import math
import os
import sys
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import fields
from typing import NoReturn, get_args

from .config import QUANTIZATIONS, Config

EX_CONFIG = 78
"""Exit code for what a restart will not mend: flags, or a model that cannot be served (sysexits.h)."""

_LONGEST_REASON = 500
"""Characters: transformers' errors run over many lines, and some list every model that there is."""

_HELP = {
    "model": "folder of a transformers model, or its name on the hub (default: the bundled tutor)",
    "name": "name to serve the model under (default: the folder's last part, or the hub name)",
    "revision": "branch, tag or commit on the hub",
    "quantization": "for a checkpoint that is not quantized (default: nf4)",
    "double_quantization": "quantize the scales of 4-bit blocks, too (default: yes)",
    "compute_dtype": "type of activations (default: bfloat16 where the device has it, else float32)",
    "device_map": "how to place the model on devices (default: auto)",
    "listen": "HOST:PORT or unix:PATH (default: 127.0.0.1 and a free port)",
    "threads": "compute threads on a CPU",
    "max_rows": "most sequences that run at once (default: 32)",
    "memory_gib": "memory for keys and values, in GiB (default: a share of what is free)",
    "chunk_tokens": "most prompt tokens read in one step while others wait (default: 256)",
    "exit_with_stdin": "end when standard input ends",
    "log_level": "least level to log on standard error (default: info)",
    "drain_s": "seconds to wait for running sequences when told to stop (default: 30)",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Ends the process with the code that keeps a supervisor from trying again; argparse's own is 2."""
        self.exit(EX_CONFIG, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser; each field of Config is a flag."""
    result = _Parser(prog="textserve-worker", description="Serves one model to textserve gateways.")
    for setting in fields(Config):
        flag = "--" + setting.name.replace("_", "-")
        choices = QUANTIZATIONS if setting.name == "quantization" else get_args(setting.type) or None
        if isinstance(setting.default, bool):
            action = argparse.BooleanOptionalAction
            result.add_argument(flag, action=action, default=setting.default, help=_HELP[setting.name])
        else:
            kind = type(setting.default)
            result.add_argument(flag, type=kind, choices=choices, default=setting.default, help=_HELP[setting.name])
    return result


def check(config: Config) -> str:
    """Returns what is wrong with a config; empty if nothing is."""
    if config.max_rows < 1 or config.chunk_tokens < 1:
        return "--max-rows and --chunk-tokens must be at least 1"
    if config.threads < 0 or not 0 <= config.memory_gib < math.inf or not 0 <= config.drain_s < math.inf:
        return "--threads, --memory-gib and --drain-s must be finite, and not negative"
    if not _is_address(config.listen):
        return "--listen must be HOST:PORT, with a port up to 65535, or unix:PATH"
    return ""


def _is_address(text: str) -> bool:
    """Whether gRPC would listen where it was told: of a port above 65535 it silently drops the upper bits."""
    if text.startswith("unix:"):
        return text != "unix:"
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) <= 65535


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker until it is told to stop.

    Returns the exit code: 0, 1 for what a restart may mend (an address in use, a lost device), 78 for the rest.
    """
    config = Config(**vars(parser().parse_args(arguments)))
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if problem := check(config):
        print(f"textserve-worker: {problem}", file=sys.stderr)
        return EX_CONFIG
    if config.exit_with_stdin:
        threading.Thread(target=_exit_with_stdin, name="life line", daemon=True).start()
    return run(config)


def run(config: Config) -> int:
    """Loads and serves. The heavy imports come here, after the flags have been understood."""
    import torch  # noqa: PLC0415 - see above

    from .memory import UnsupportedModelError  # noqa: PLC0415
    from .server import EngineDiedError, ListenError, prepare, serve  # noqa: PLC0415

    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        prepared = prepare(config)
    except (OSError, ValueError, UnsupportedModelError) as error:
        reason = textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" ...")
        print(f"textserve-worker: cannot serve {config.model}: {reason}", file=sys.stderr)
        return EX_CONFIG
    try:
        asyncio.run(serve(config, prepared))
    except (ListenError, EngineDiedError) as error:
        print(f"textserve-worker: {error}", file=sys.stderr)
        return 1
    return 0


def _exit_with_stdin() -> None:
    """Waits for the end of standard input, then ends the process wherever it is: its supervisor is gone."""
    while os.read(0, 1024):
        pass
    os._exit(1)
