"""Measures how a worker starts: when it is ready, what takes the time, and how much memory the load takes.

    python -m bench.startup [--json] [--rounds N]

The random Llama of the engine's bench starts from its 16-bit checkpoint, in several shards, and from what
`textserve-worker quantize` wrote. A first start finds neither compiled code nor, as far as the kernel lets go of them,
the files in memory; a second one finds both. The floor is reading the same files. What transformers takes to build the
modules, however small, is measured with a narrow model of as many layers, and counted apart.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.random_model import export_random_llama
from bench.report import Row, arguments, show
from bench.timing import seconds
from bench.worker_start import Start, start_worker

SHARD_BYTES = 128 * 2**20
NARROW_WIDTH = 128
CONSTANT_MIB = 64
"""What a load may take beside weights: transformers' code for the model, the tokenizer, the allocator's own."""
READ_RATIO = 2.0
_KERNELS = "imports and kernels"
"""The phase in which kernels are compiled."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder."""

    name: str
    folder: Path

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    @property
    def sizes_mib(self) -> list[float]:
        return [file.stat().st_size / 2**20 for file in self.files]

    def forget(self) -> None:
        """Asks the kernel to drop the files from its memory."""
        for file in self.files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self) -> None:
        """Reads the files into memory."""
        for file in self.files:
            file.read_bytes()


@dataclass(frozen=True)
class Measured:
    """Starts from one checkpoint, and readings of its files."""

    checkpoint: Checkpoint
    first: list[Start]
    second: list[Start]
    cold_reads: list[float]
    warm_reads: list[float]


def main() -> int:
    """Runs the bench."""
    args = arguments("How a worker starts: time until it is ready, and memory.")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = make_checkpoints(Path(folder))
        measured = [Measured(checkpoint, [], [], [], []) for checkpoint in checkpoints]
        for _ in range(args.rounds):
            for each in measured:
                measure(each)
        plain, quantized, narrow = measured
        tables = {"starts": start_rows(measured), "memory": memory_rows([plain, quantized], quantized.checkpoint)}
        return show("startup", tables, checks(plain, quantized, narrow), as_json=args.json)


def make_checkpoints(folder: Path) -> list[Checkpoint]:
    """Writes the 16-bit checkpoint in shards, the one quantized from it, and the narrow one, quantized too."""
    names = ("whole", "16 bit", "quantized", "narrow 16 bit", "narrow, quantized")
    whole, plain, quantized, narrow, narrow_quantized = (Checkpoint(name, folder / name) for name in names)
    export_random_llama(whole.folder)
    model = AutoModelForCausalLM.from_pretrained(whole.folder, dtype=torch.bfloat16)
    model.save_pretrained(plain.folder, max_shard_size=SHARD_BYTES)
    AutoTokenizer.from_pretrained(whole.folder).save_pretrained(plain.folder)
    export_random_llama(narrow.folder, width=NARROW_WIDTH)
    for source, out in ((plain, quantized), (narrow, narrow_quantized)):
        command = [sys.executable, "-m", "worker", "quantize", str(source.folder), str(out.folder)]
        subprocess.run(command, check=True, capture_output=True)
    return [plain, quantized, narrow_quantized]


def measure(measured: Measured) -> None:
    """Adds a first start, a second one, and a reading of each kind."""
    checkpoint = measured.checkpoint
    with tempfile.TemporaryDirectory() as cache:
        checkpoint.forget()
        measured.first.append(start_worker(checkpoint.folder, Path(cache)))
        measured.second.append(start_worker(checkpoint.folder, Path(cache)))
    measured.warm_reads.append(seconds(checkpoint.read))
    checkpoint.forget()
    measured.cold_reads.append(seconds(checkpoint.read))


def start_rows(measured: Sequence[Measured]) -> list[Row]:
    """Returns the median seconds of each phase, by checkpoint and start."""
    return [
        {
            "checkpoint": each.checkpoint.name,
            "start": kind,
            "ready s": statistics.median(start.seconds for start in starts),
            **{f"{phase} s": phase_seconds(starts, phase) for phase in starts[0].phases},
            "reading the files s": statistics.median(reads),
        }
        for each in measured
        for kind, starts, reads in (
            ("first", each.first, each.cold_reads),
            ("second", each.second, each.warm_reads),
        )
    ]


def phase_seconds(starts: Sequence[Start], phase: str) -> float:
    """Returns the median of a phase."""
    return statistics.median(start.phases[phase] for start in starts)


def memory_rows(measured: Sequence[Measured], quantized: Checkpoint) -> list[Row]:
    """Returns what loading takes at its peak, beside what the process held before: the most of all rounds."""
    return [
        {
            "checkpoint": each.checkpoint.name,
            "files MiB": sum(each.checkpoint.sizes_mib),
            "largest shard MiB": max(each.checkpoint.sizes_mib),
            "quantized weights MiB": sum(quantized.sizes_mib),
            "peak of the load MiB": peak_mib(each),
            "mapped files MiB": max(start.load_peak.mapped for start in each.first + each.second) / 2**20,
            "peak / quantized weights": peak_mib(each) / sum(quantized.sizes_mib),
        }
        for each in measured
    ]


def peak_mib(measured: Measured) -> float:
    """Returns the most memory of its own that a load took, in MiB."""
    return max(start.load_peak.anonymous for start in measured.first + measured.second) / 2**20


def checks(plain: Measured, quantized: Measured, narrow: Measured) -> dict[str, bool | None]:
    """Returns the bars, and whether they are held."""
    weights = sum(quantized.checkpoint.sizes_mib)
    shard = max(plain.checkpoint.sizes_mib)
    reading = phase_seconds(quantized.second, "weights") - phase_seconds(narrow.second, "weights")
    floor = statistics.median(quantized.warm_reads)
    return {
        f"quantizing holds at most the quantized weights, one 16-bit shard and {CONSTANT_MIB} MiB": (
            peak_mib(plain) <= weights + shard + CONSTANT_MIB
        ),
        f"of a quantized checkpoint one copy is held, and {CONSTANT_MIB} MiB, mapped files aside": (
            peak_mib(quantized) <= weights + CONSTANT_MIB
        ),
        f"a quantized checkpoint loads within {READ_RATIO:g} times of reading it": reading <= READ_RATIO * floor,
        "the second start finds the kernels compiled": (
            phase_seconds(quantized.second, _KERNELS) < phase_seconds(quantized.first, _KERNELS)
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
