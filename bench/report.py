"""What every bench prints: a table for people, or one JSON object with `--json`."""

import argparse
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Row = Mapping[str, object]
_VERDICTS = {True: "pass", False: "FAIL", None: "not measured"}


@dataclass(frozen=True)
class Section:
    """A part of a bench that can be run by itself."""

    tables: Mapping[str, Sequence[Row]]
    """By title."""
    checks: Mapping[str, bool | None]
    """What was to be shown, and whether it was; None: it was not measured."""


def arguments(description: str, sections: Sequence[str] = ()) -> argparse.Namespace:
    """Returns the flags that all benches share, and for a bench of several sections which of them to run: `only`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured; medians are printed")
    if sections:
        parser.add_argument("--only", nargs="+", choices=sections, default=sections, help="run these sections alone")
    return parser.parse_args()


def machine() -> dict[str, object]:
    """Returns what the figures depend on: processor, cores, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    packages = ("torch", "transformers", "bitsandbytes", "grpcio")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def show(name: str, tables: Mapping[str, Sequence[Row]], checks: Mapping[str, bool | None], *, as_json: bool) -> int:
    """Prints the tables and the checks; returns the exit code: 0 if all checks were made and passed, else 1."""
    if as_json:
        print(json.dumps(_finite({"bench": name, "machine": machine(), **tables, "checks": checks}), allow_nan=False))
    else:
        print(f"{name} on {', '.join(f'{key} {value}' for key, value in machine().items())}")
        for title, rows in tables.items():
            print(f"\n{title}\n{table(rows)}")
        for check, passed in checks.items():
            print(f"{_VERDICTS[passed]}: {check}")
    return 0 if all(checks.values()) else 1


def show_sections(name: str, sections: Sequence[Section], *, as_json: bool) -> int:
    """Prints sections one after the other; returns the exit code: 1 if a check failed."""
    tables = {title: rows for section in sections for title, rows in section.tables.items()}
    checks = {check: passed for section in sections for check, passed in section.checks.items()}
    return show(name, tables, checks, as_json=as_json)


def table(rows: Sequence[Row]) -> str:
    """Returns rows as a Markdown table."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in header) + " |" for row in rows]
    return "\n".join(lines)


def _finite(value: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    """Returns it without infinity (the time to a token that never came) and NaN, which JSON does not know."""
    match value:
        case Mapping():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
