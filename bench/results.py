"""What benches have printed with `--json`, read again."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, Any]]


def read_results(paths: Iterable[Path]) -> Results:
    """Returns each bench's tables, by its name: where a bench was run in parts, those of all; of several the last ones.

    A file may hold the output of several benches, one object on a line; other lines, such as make's, are passed over.
    """
    lines = [line for path in paths for line in path.read_text().splitlines() if line.startswith("{")]
    objects = [json.loads(line) for line in lines]
    found: dict[str, dict[str, Any]] = {}
    for each in objects:
        if "bench" in each:
            found.setdefault(each["bench"], {}).update(each)
    return found


def rows_of(results: Results, bench: str, title: str) -> Sequence[Mapping[str, Any]]:
    """Returns the rows of a table; none if that bench, or that section of it, was not run."""
    rows: Sequence[Mapping[str, Any]] = results.get(bench, {}).get(title, [])
    return rows


def measured_peers(results: Results) -> list[tuple[str, float]]:
    """Returns the peers whose throughput on the mixed set was measured, and it in tokens per second, fastest first."""
    found = [
        (_peer(row), float(row["tokens/s"]))
        for row in rows_of(results, "peers", "mixed set")
        if isinstance(row.get("tokens/s"), int | float)
    ]
    return sorted(found, key=lambda peer: peer[1], reverse=True)


def _peer(row: Mapping[str, Any]) -> str:
    return f"{row['peer']}, {row['rows']} rows" if "rows" in row else str(row["peer"])
