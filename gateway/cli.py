"""The command `textserve-gateway`: flags and environment to a Config, and the process around the server."""

import argparse
import ast
import asyncio
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from .config import Config, Tenant
from .serve import serve
from .server import StartupError

CHOICES = {"quantization": ("nf4", "fp4", "int8", "none"), "log_level": ("debug", "info", "warning", "error")}
COUNTS = (
    "workers",
    "max_queued",
    "max_queued_tokens",
    "max_tenant_queued",
    "max_tenant_queued_tokens",
    "max_message_bytes",
)
LISTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "worker": ("HOST:PORT", str),
    "tenant": ("NAME=WEIGHT[:PRIORITY]", Tenant.parse),
}
"""The fields that are lists: how an entry is written, and how it is read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a gateway until it is told to stop. Returns the exit status."""
    config = parse(sys.argv[1:] if argv is None else argv, os.environ)
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serve(config))
    except StartupError as error:
        print(f"textserve-gateway: {error}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration; flags go before the environment. Exits with a message if it makes no sense."""
    own, worker_args = _split(argv)
    parser = _parser(environ)
    values = vars(parser.parse_args(own))
    for name in LISTS:
        values[name] = _list(parser, name, values[name] or environ.get(f"TEXTSERVE_{name.upper()}", "").split(","))
    config = Config(**values, worker_args=tuple(worker_args))
    if fault := _fault(config):
        parser.error(fault)
    return config


def _list(parser: argparse.ArgumentParser, name: str, texts: Sequence[str]) -> tuple[Any, ...]:
    metavar, read = LISTS[name]
    try:
        return tuple(read(text) for text in texts if text)
    except ValueError:
        parser.error(f"--{name} must be {metavar}")


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    if "--" not in argv:
        return argv, ()
    at = list(argv).index("--")
    return argv[:at], argv[at + 1 :]


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="textserve-gateway",
        description="Serves text generation over gRPC.",
        epilog="Everything behind -- goes to the workers. Each flag can be given as TEXTSERVE_... in the environment.",
        allow_abbrev=False,
    )
    helps = _helps()
    for field in fields(Config):
        if field.name != "worker_args":
            _add(parser, field, helps[field.name], environ.get(f"TEXTSERVE_{field.name.upper()}"))
    return parser


def _add(parser: argparse.ArgumentParser, field: "Field[Any]", text: str, given: str | None) -> None:
    flag = "--" + field.name.replace("_", "-")
    default = field.default
    if default is MISSING:
        raise TypeError(f"{field.name} has no default")
    if field.type is bool:
        value = default if given is None else given.lower() in {"1", "true", "yes", "on"}
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value, help=text)
    elif isinstance(default, tuple):
        # argparse would append to a default: `parse` takes the environment's value if no flag is given.
        parser.add_argument(flag, action="append", metavar=LISTS[field.name][0], help=text)
    else:
        shown = f"{text} Default: {default}." if default != "" else text
        # argparse converts a default that is a string just as it converts a flag.
        parser.add_argument(
            flag, type=_type(field), choices=CHOICES.get(field.name), default=given or default, help=shown
        )


def _type(field: "Field[Any]") -> Callable[[str], Any]:
    types: dict[Any, Callable[[str], Any]] = {int: int, float: float, str: str}
    return types[field.type]


def _helps() -> dict[str, str]:
    """The docstrings under the fields of Config."""
    (definition,) = ast.parse(inspect.getsource(Config)).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - narrows a type
    helps: dict[str, str] = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                helps[name] = doc.replace("%", "%%")
            case _:
                pass
    return helps


def _fault(config: Config) -> str | None:
    for name, choices in CHOICES.items():
        # argparse checks what comes by flag only.
        if getattr(config, name) not in {*choices, Config.__dataclass_fields__[name].default}:
            return f"--{name.replace('_', '-')} must be one of {', '.join(choices)}"
    for name in COUNTS:
        if getattr(config, name) < 1:
            return f"--{name.replace('_', '-')} must be at least 1"
    for name in ("request_timeout", "worker_wait", "grace"):
        if not 0 <= getattr(config, name) < float("inf"):
            return f"--{name.replace('_', '-')} must be a number of seconds from 0"
    if config.tenant and not config.trust_tenant_metadata:
        return "--tenant has no meaning without --trust-tenant-metadata"
    if config.worker and (config.model or config.quantization or config.worker_args or config.workers != 1):
        return (
            "--worker attaches to workers that run: --model, --workers, --quantization and -- have no meaning with it"
        )
    return None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional: where it is missing, asyncio's own loop does
    except ImportError:
        return None
    return uvloop.new_event_loop
