"""The command `textserve-gateway`: flags and environment to a Config, and the process around the server."""

import argparse
import asyncio
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .config import Config, Setting
from .process import serve
from .server import StartupError

_SETTINGS: "dict[str, Field[Any]]" = {field.name: field for field in fields(Config) if "setting" in field.metadata}

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

OWN_WORKER_FLAGS = {"--listen", "--exit-with-stdin", "--no-exit-with-stdin"}


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
    """The configuration; flags go before the environment.

    Exits with status 2 and a sentence that names the flag, or the variable, whose value makes no sense.
    """
    parser = _parser()
    own, worker_args = parser.split(argv)
    values = vars(parser.parse_args(own))
    for name, field in _SETTINGS.items():
        # An empty variable is as good as none: some tools cannot unset one.
        if name not in values and (given := environ.get(_variable(name), "").strip()):
            values[name] = _from_environment(parser, field, given)
        if isinstance(field.default, tuple):
            values[name] = tuple(values.get(name, ()))
    config = Config(**values, worker_args=tuple(worker_args))
    if fault := _fault(config) or _worker_fault(config):
        parser.error(fault)
    return config


class _Parser(argparse.ArgumentParser):
    """Takes the word behind a flag as its value, whatever it begins with, as getopt does.

    By itself argparse takes the value in "--model -x" for a flag, and drops the one in "--model=--".
    """

    def split(self, words: Iterable[str]) -> tuple[list[str], list[str]]:
        """Our own words, each flag and its value in one, and the words behind a -- that is no value."""
        own: list[str] = []
        rest = iter(words)
        for word in rest:
            if word == "--":
                return own, [*rest]
            action = self._option_string_actions.get(word)
            value = next(rest, None) if action is not None and action.nargs is None else None
            own.append(word if value is None else f"{word}={value}")
        return own, []

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:  # noqa: ANN401 - as argparse's
        if action.option_strings and arg_strings == ["--"]:
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)


def _parser() -> _Parser:
    parser = _Parser(
        prog="textserve-gateway",
        description="Serves text generation over gRPC.",
        epilog="Everything behind -- goes to the workers. Each flag can be given as TEXTSERVE_... in the environment."
        " Exit status: 0 stopped by a signal, 1 it cannot run, 2 wrong usage, 130 or 143 cut short by a second signal.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    for field in _SETTINGS.values():
        _add(parser, field)
    return parser


def _version() -> str:
    try:
        return version("textserve")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _variable(name: str) -> str:
    return f"TEXTSERVE_{name.upper()}"


def _add(parser: argparse.ArgumentParser, field: "Field[Any]") -> None:
    flag, setting = "--" + field.name.replace("_", "-"), _setting_of(field)
    text = setting.help if field.default in ("", ()) else f"{setting.help} Default: {field.default}."
    if field.type is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        return
    action = "append" if isinstance(field.default, tuple) else "store"
    parser.add_argument(flag, action=action, type=_reader(field), metavar=setting.form or None, help=text)


def _setting_of(field: "Field[Any]") -> Setting:
    setting: Setting = field.metadata["setting"]
    return setting


def _reader(field: "Field[Any]") -> Callable[[str], Any]:
    def read(text: str) -> Any:  # noqa: ANN401 - what the field holds
        try:
            return _read(field, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from None

    return read


def _from_environment(parser: argparse.ArgumentParser, field: "Field[Any]", given: str) -> Any:  # noqa: ANN401
    """The value of a variable; entries of a list have commas between."""
    is_list = isinstance(field.default, tuple)
    texts = [entry.strip() for entry in given.split(",") if entry.strip()] if is_list else [given]
    values = []
    for text in texts:
        try:
            values.append(_read(field, text))
        except ValueError as error:
            parser.error(f"{_variable(field.name)} {error}, not {text!r}")
    return values if is_list else values[0]


def _read(field: "Field[Any]", text: str) -> Any:  # noqa: ANN401 - what the field holds
    """A value, or one entry of a list. Raises ValueError with what it must be."""
    setting = _setting_of(field)
    if field.type is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"must be one of {', '.join(_BOOLEANS)}")
        return _BOOLEANS[text.lower()]
    if field.type in (int, float):
        return _number(text, field.type, setting)
    if setting.choices and text not in setting.choices:
        raise ValueError(f"must be one of {', '.join(setting.choices)}")
    return setting.parse(text)


def _number(text: str, kind: Callable[[str], float], setting: Setting) -> float:
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not setting.least <= number <= setting.most:
        whole = "whole " if kind is int else ""
        raise ValueError(f"must be a {whole}number from {setting.least:,.10g} to {setting.most:,.10g}")
    return number


def _fault(config: Config) -> str | None:
    """What is wrong with values that are right by themselves."""
    if config.tenant and not config.trust_tenant_metadata:
        return "--tenant has no meaning without --trust-tenant-metadata"
    if config.worker and (config.model or config.quantization or config.worker_args or config.workers):
        return (
            "--worker attaches to workers that run: --model, --workers, --quantization and -- have no meaning with it"
        )
    return None


def _worker_fault(config: Config) -> str | None:
    if own := OWN_WORKER_FLAGS & {argument.partition("=")[0] for argument in config.worker_args}:
        return f"{min(own)} has no meaning behind --: it is the gateway that gives it to its workers"
    return None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional: where it is missing, asyncio's own loop does
    except ImportError:
        return None
    return uvloop.new_event_loop
