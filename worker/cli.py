"""The command line of the worker: `textserve-worker` serves a model, `textserve-worker quantize` writes one."""

import argparse
import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .domain.config import Config
from .domain.refusal import sentence
from .flags import Parser, add_flags, check
from .memory.available import available_cpus

EX_CONFIG = 78
"""Exit code for what a restart will not mend: flags, or a model that cannot be served (sysexits.h)."""

_SUPERVISED = "--exit-with-stdin"
"""The flag of a process that is started by a supervisor, which reads its standard output."""

logger = logging.getLogger(__name__)

_QUANTIZE, _PLAN = "quantize", "plan"
_PLAN_FLAGS = (
    "revision",
    "quantization",
    "double_quantization",
    "skip_modules",
    "compute_dtype",
    "context_length",
    "max_rows",
    "memory_gib",
    "memory_share",
    "workers_on_gpu",
    "cuda_graphs",
    "chunk_tokens",
    "log_level",
)
_QUANTIZE_FLAGS = (
    "revision",
    "quantization",
    "double_quantization",
    "int8_threshold",
    "skip_modules",
    "compute_dtype",
    "cpu_level",
    "device_map",
    "max_memory",
    "threads",
    "log_level",
)


class _Parser(Parser):
    is_supervised = False

    def error(self, message: str) -> NoReturn:
        """Ends the process with the code that keeps a supervisor from trying again; argparse's own is 2."""
        _complain(message, of=self.prog, is_supervised=self.is_supervised)
        self.exit(EX_CONFIG)


def parser() -> _Parser:
    """Returns the parser; each field of Config is a flag."""
    result = _Parser(
        prog="textserve-worker",
        description="Serves one model to textserve gateways.",
        epilog=f"`textserve-worker {_QUANTIZE} --help` tells how to write a quantized checkpoint, `textserve-worker "
        f"{_PLAN} --help` how to see what a model will take of a GPU.",
    )
    add_flags(result)
    return result


def quantize_parser() -> argparse.ArgumentParser:
    """Returns the parser of the quantize command."""
    result = _Parser(
        prog=f"textserve-worker {_QUANTIZE}",
        description="Writes a quantized checkpoint, which loads faster and generates the same as one that is quantized "
        "when it is loaded, on this kind of device, with the same --compute-dtype.",
    )
    result.add_argument("model", help="folder of a transformers model, or its name on the hub")
    result.add_argument("out", type=Path, help="folder to write")
    result.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    add_flags(result, _QUANTIZE_FLAGS)
    return result


def plan_parser() -> argparse.ArgumentParser:
    """Returns the parser of the plan command."""
    result = _Parser(
        prog=f"textserve-worker {_PLAN}",
        description="Prints what a model will take of a GPU's memory, and how many tokens and rows that leaves room "
        "for. Only its config.json is read.",
    )
    result.add_argument("model", help="folder of a transformers model, or its name on the hub")
    result.add_argument("--memory", required=True, metavar="SIZE", help="memory of the GPU, such as 24GiB")
    add_flags(result, _PLAN_FLAGS)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker until it is told to stop, or quantizes a checkpoint, or plans memory.

    Returns the exit code: 0, 1 for what a restart may mend (an address in use, a lost device, memory), 78 for the rest.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == _QUANTIZE:
        return _quantize(arguments[1:])
    if arguments and arguments[0] == _PLAN:
        return _plan(arguments[1:])
    own = parser()
    own.is_supervised = _SUPERVISED in arguments
    config = Config(**vars(own.parse_args(arguments)))
    if _is_refused(config):
        return EX_CONFIG
    if config.exit_with_stdin:
        threading.Thread(target=_exit_with_stdin, name="life line", daemon=True).start()
    return run(config)


def _is_refused(config: Config) -> bool:
    """Sets up the log, and says what is wrong with a config, if anything is."""
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    problem = check(config)
    if problem:
        _complain(problem, is_supervised=config.exit_with_stdin)
    return bool(problem)


def _complain(problem: str, *, of: str = "textserve-worker", is_supervised: bool = False) -> None:
    """Says why the process ends; to a supervisor too, on the stream on which it waits for the ready line."""
    problem = problem.replace("\n", " ")
    if is_supervised:
        print(f"textserve-worker refused {problem}", flush=True)
    print(f"{of}: {problem}", file=sys.stderr, flush=True)


def run(config: Config) -> int:
    """Loads and serves. The heavy imports come here, after the flags have been understood."""
    try:
        import torch  # noqa: PLC0415 - see above

        from .server import EngineDiedError, ListenError, check_address, prepare, serve  # noqa: PLC0415
    except ImportError as error:
        return _lack(error, is_supervised=config.exit_with_stdin)
    torch.set_num_threads(config.threads or min(torch.get_num_threads(), available_cpus()))
    try:
        check_address(config.listen)
        prepared = prepare(config)
    except ListenError as error:
        _complain(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - a folder can make the libraries that read it raise anything
        return _refuse(f"cannot serve {config.model}", error, is_supervised=config.exit_with_stdin)
    try:
        asyncio.run(serve(config, prepared))
    except ListenError as error:
        _complain(str(error))
        return 1
    except EngineDiedError as error:
        _complain(str(error))
        os._exit(1)  # a device that hangs would hold up the interpreter's own end, too
    return 0


def _lack(error: ImportError, *, is_supervised: bool = False) -> int:
    """Says that a package is missing, as in an installation of the gateway alone; returns the exit code."""
    _complain(f"{error}: a worker needs what `pip install 'textserve[worker]'` installs", is_supervised=is_supervised)
    return EX_CONFIG


def _refuse(what: str, error: Exception, *, is_supervised: bool = False) -> int:
    """Says why a model is not served, or not written; returns the exit code."""
    from .memory.device_errors import may_pass  # noqa: PLC0415 - it needs torch

    logger.debug("%s", what, exc_info=error)
    problem = f"{what}: {sentence(error)}"
    if may_pass(error):
        _complain(problem)
        return 1
    _complain(problem, is_supervised=is_supervised)
    return EX_CONFIG


def _quantize(arguments: Sequence[str]) -> int:
    given = vars(quantize_parser().parse_args(arguments))
    out, overwrite = given.pop("out"), given.pop("overwrite")
    config = Config(**given)
    if _is_refused(config):
        return EX_CONFIG
    try:
        import torch  # noqa: PLC0415 - as in run

        from .quantize import quantize  # noqa: PLC0415
    except ImportError as error:
        return _lack(error)
    torch.set_num_threads(config.threads or min(torch.get_num_threads(), available_cpus()))
    try:
        summary = quantize(config, out, overwrite=overwrite)
    except Exception as error:  # noqa: BLE001 - as in run
        return _refuse(f"cannot quantize {config.model}", error)
    print(summary)
    return 0


def _plan(arguments: Sequence[str]) -> int:
    given = vars(plan_parser().parse_args(arguments))
    memory = given.pop("memory")
    config = Config(**given)
    if _is_refused(config):
        return EX_CONFIG
    try:
        from .plan import planned, report  # noqa: PLC0415 - as in run
    except ImportError as error:
        return _lack(error)
    try:
        found = planned(config, memory)
    except Exception as error:  # noqa: BLE001 - as in run
        return _refuse(f"{config.model} cannot be served with {memory}", error)
    print(report(found))
    return 0


def _exit_with_stdin() -> None:
    """Waits for the end of standard input, then ends the process wherever it is: its supervisor is gone."""
    while os.read(0, 1024):
        pass
    os._exit(1)
