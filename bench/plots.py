"""Draws the plots of docs/performance.md from what the benches print with `--json`.

    python -m bench.plots FILE ... --out FOLDER

A plot whose bench is in none of the files is left out. Needs matplotlib: `pip install 'textserve[bench]'`. The same
figures give the same files, byte for byte.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl  # pyright: ignore[reportMissingImports] - an optional extra
from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports] - the same

from bench.results import Results, measured_peers, read_results, rows_of

ENGINE, OTHER = "#1f5fa8", "#c8641b"
PERCENTILES = {"p50": "o", "p95": "s", "p99": "^"}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "textserve",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def step_plot(results: Results) -> Figure | None:
    """Draws the time of a decode step and of its floor over the number of rows."""
    table = rows_of(results, "engine", "closed loop")
    if not table:
        return None
    figure, axes = _axes("A decode step and its floor", x="rows", y="ms")
    rows = [row["rows"] for row in table]
    axes.plot(rows, [row["step ms"] for row in table], color=ENGINE, marker="o", label="engine")
    axes.plot(rows, [row["floor ms"] for row in table], color=OTHER, marker="s", linestyle="--", label="floor")
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows, [str(count) for count in rows])
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def peers_plot(results: Results) -> Figure | None:
    """Draws the throughput of each peer on the mixed set."""
    peers = measured_peers(results)
    if not peers:
        return None
    figure, axes = _axes("The mixed set", x="tokens/s", y="", height=1 + 0.4 * len(peers))
    names = [name for name, _ in reversed(peers)]
    rates = [rate for _, rate in reversed(peers)]
    colors = [ENGINE if name.startswith("textserve") else OTHER for name in names]
    axes.bar_label(axes.barh(names, rates, color=colors), fmt="%.0f", padding=3)
    axes.grid(visible=False, axis="y")
    return figure


def first_token_plot(results: Results) -> Figure | None:
    """Draws percentiles of the time to the first token over the load, for the engine and for static batching."""
    table = rows_of(results, "engine", "open loop")
    if not table:
        return None
    figure, axes = _axes("Time to the first token under Poisson arrivals", x="share of the engine's capacity", y="ms")
    for server, color, line in (("engine", ENGINE, "-"), ("static", OTHER, "--")):
        rows = [row for row in table if row["server"] == server]
        for percentile, marker in PERCENTILES.items():
            times = [row[f"first token {percentile} ms"] for row in rows]
            label = f"{server} {percentile}"
            axes.plot([row["load"] for row in rows], times, color=color, linestyle=line, marker=marker, label=label)
    axes.set_yscale("log")
    axes.set_xticks(sorted({row["load"] for row in table}))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _axes(title: str, *, x: str, y: str, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "step.svg": step_plot,
    "peers.svg": peers_plot,
    "first_token.svg": first_token_plot,
}


def draw(results: Results, folder: Path) -> None:
    """Writes all plots for which there are figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        figure = plot(results)
        if figure is None:
            print(f"{name}: no figures for it in these files")
            continue
        figure.savefig(folder / name, metadata={"Date": None})
        print(f"{name}: drawn")


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="output of benches with --json")
    parser.add_argument("--out", type=Path, default=Path("docs/performance"), help="folder of the plots")
    flags = parser.parse_args()
    with mpl.rc_context(STYLE):
        draw(read_results(flags.files), flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
