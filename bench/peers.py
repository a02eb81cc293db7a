"""Measures textserve's engine against other servers of the same model, side by side in one run.

    python -m bench.peers [--json] [--rounds N] [--peer NAME ...]

The mixed set with 16 rows, decode steps with 1 to 16 rows, and prefill. Every server is a process of its own, with as
many threads as there are cores; all but the one whose turn it is are stopped. Before each measurement of a peer the
engine's own is taken anew, and the medians of the ratios of such pairs count. All run the same random weights, each in
its own 4-bit format, so their tokens differ; that they make exactly as many as asked for is checked. `transformers
serve` is measured over HTTP, the others within their process. `bench/install-peers` installs what is not our own.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from bench.peer.figures import Bar, Figure, Pair, Result, checks, step_seconds, tables
from bench.peer.process import ROOT, PeerFailedError, PeerProcess
from bench.peer.protocol import Request, Setup
from bench.random_model import export_random_llama
from bench.report import show
from bench.workload import mixed_set, random_prompt, useful_tokens

ROWS = 16
STEPS = 32


def mixed() -> Figure:
    """Returns the figure of the mixed set."""
    requests = mixed_set()
    return Figure("mixed set", "tokens/s", useful_tokens(requests), lambda _: requests, lambda served: served.seconds)


def closed_loop(rows: int) -> Figure:
    """Returns the figure of decode steps with so many rows."""

    def requests(rng: Random) -> list[Request]:
        return [Request(random_prompt(rng, 32), STEPS + 1) for _ in range(rows)]

    return Figure("closed loop", "ms/step", rows, requests, lambda served: step_seconds(served, rows), {"rows": rows})


def prefill(tokens: int) -> Figure:
    """Returns the figure of reading one prompt of so many tokens."""

    def requests(rng: Random) -> list[Request]:
        return [Request(random_prompt(rng, tokens), 1)]

    return Figure("prefill", "tokens/s", tokens, requests, lambda served: served.arrivals[0][0], {"tokens": tokens})


MIXED = mixed()
CLOSED_LOOPS = {rows: closed_loop(rows) for rows in (1, 4, 8, ROWS)}
PREFILLS = [prefill(512), prefill(1024)]
FIGURES = [MIXED, *CLOSED_LOOPS.values(), *PREFILLS]

BARS = [
    Bar(MIXED, 2.0, ("generate", "generate-sorted")),
    Bar(MIXED, 3.0, ("continuous-batching",)),
    Bar(MIXED, 1.5, ("llama.cpp",)),
    *(Bar(CLOSED_LOOPS[rows], 1.2, ("llama.cpp",)) for rows in (4, 8, ROWS)),
    *(Bar(figure, 1.0, ("llama.cpp",)) for figure in PREFILLS),
    Bar(MIXED, 0.9, ("openvino",), of="textserve-int8"),
]


@dataclass(frozen=True)
class Program:
    """How a server is started."""

    name: str
    module: str
    """Of the package bench.peer."""
    environment: str = ""
    """Folder in .peers; empty: our own environment."""
    flags: tuple[str, ...] = ()
    figures: Sequence[Figure] = tuple(FIGURES)

    def command(self) -> list[str]:
        """Returns what to run. Raises PeerFailedError, with the reason, if it is not installed."""
        return [str(self._python()), "-m", f"bench.peer.{self.module}", *self.flags]

    def _python(self) -> Path:
        if not self.environment:
            return Path(sys.executable)
        folder = ROOT / ".peers" / self.environment
        if not (folder / "installed").exists():
            reason = folder.with_name(f"{self.environment}.reason")
            why = reason.read_text().strip() if reason.exists() else f"bench/install-peers {self.environment}"
            raise PeerFailedError(f"not installed: {why}")
        return folder / "bin" / "python"


OURS = Program("textserve", "textserve_engine")
PEERS = [
    Program("generate", "static_generate"),
    Program("generate-sorted", "static_generate", flags=("--sorted",), figures=(MIXED,)),
    Program("continuous-batching", "continuous_batching"),
    Program("transformers-serve", "transformers_serve", "transformers-serve"),
    Program(
        "transformers-serve-continuous", "transformers_serve", "transformers-serve", flags=("--continuous-batching",)
    ),
    Program("llama.cpp", "llama_cpp", "llama.cpp"),
    Program("openvino", "openvino_genai", "openvino"),
    Program("textserve-int8", "textserve_engine", flags=("--int8",)),
]


@dataclass(frozen=True)
class Side:
    """A server that runs, and what is measured of it."""

    process: PeerProcess
    results: Sequence[Result]

    @property
    def has_failed(self) -> bool:
        """Tells whether it does not run any more."""
        return any(result.note for result in self.results)

    def fail(self, error: PeerFailedError) -> None:
        """Notes why nothing more is measured."""
        for result in self.results:
            result.note = str(error)


@contextmanager
def started(program: Program, folder: Path) -> Iterator[PeerProcess]:
    """Starts a server and warms it up. Raises PeerFailedError if it does not get that far."""
    scratch = folder / program.name
    scratch.mkdir()
    setup = Setup(str(folder / "model"), str(scratch), ROWS, len(os.sched_getaffinity(0)))
    with PeerProcess(program.command(), setup) as process:
        process.prepare()
        for figure in (CLOSED_LOOPS[ROWS], PREFILLS[0]):
            process.serve(figure.requests(Random(0)))
        yield process


def measure(programs: Sequence[Program], rounds: int, folder: Path) -> list[Result]:
    """Measures the figures of all programs, in turns with our own. Raises PeerFailedError if our own engine fails."""
    results = {program.name: [Result(program.name, figure) for figure in program.figures] for program in programs}
    with ExitStack() as stack:
        ours = stack.enter_context(started(OURS, folder))
        sides = []
        for program in programs:
            try:
                process = stack.enter_context(started(program, folder))
            except PeerFailedError as error:
                for result in results[program.name]:
                    result.note = str(error)
            else:
                sides.append(Side(process, results[program.name]))
        rng = Random(1)
        for _ in range(rounds):
            for side in sides:
                measure_round(ours, side, rng)
    return [result for each in results.values() for result in each]


def measure_round(ours: PeerProcess, side: Side, rng: Random) -> None:
    """Measures each figure of a peer once, right after our own, until it fails."""
    for result in side.results:
        if side.has_failed:
            return
        requests = result.figure.requests(rng)
        our_s = result.figure.seconds(ours.serve(requests))
        try:
            their_s = result.figure.seconds(side.process.serve(requests))
        except PeerFailedError as error:
            side.fail(error)
        else:
            result.pairs.append(Pair(our_s, their_s))


def main() -> int:
    """Runs the bench."""
    names = [program.name for program in PEERS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured; medians are printed")
    parser.add_argument("--peer", action="append", choices=names, help="measure this one; may be repeated (all)")
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, and so ends the processes
    programs = [program for program in PEERS if program.name in (flags.peer or names)]
    with TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        export_random_llama(model)
        results = measure(programs, flags.rounds, Path(folder))
    return show("peers", tables(results), checks(results, BARS, flags.rounds), as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
