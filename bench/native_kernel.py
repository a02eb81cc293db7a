"""The C code's 4-bit products on one core, beside the most that the core can multiply and add in float32."""

import copy
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.report import Row
from worker.loading.cpu_level import CpuLevel, cpu_level
from worker.loading.quantization import four_bit
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.runners.native import library as native
from worker.runners.native.linear import NativeLinear, pack

SOURCE = Path(__file__).parent / "peak.c"
ROWS = (1, 2, 4, 8, 16, 32, 64)
PEAK_ROUNDS = 1_000_000
BARS = {1: 12.0, 4: 0.80, 16: 0.95, 64: 1.10}
"""Of AVX2 in the cache: GB/s of packed weights at one row, and shares of the peak at more."""
_INPUTS = 1024


@dataclass(frozen=True)
class Kernel:
    """Products of one core at one level, with weights that are in its cache, and with ones that are not."""

    library: native.Library
    level: CpuLevel
    layers: list[NativeLinear]
    """Of _INPUTS inputs and as many outputs, more of them than caches hold."""

    @classmethod
    def of(cls, level: str = "auto", *, layers: int = 96) -> "Kernel":
        """Compiles the code for a level, and makes layers with random weights."""
        chosen = cpu_level(level)
        first = _layer()
        made = [NativeLinear(_with_other_codes(first), chosen.arithmetic) for _ in range(layers)]
        return cls(native.load(1, chosen), chosen, made)

    def row(self, rows: int, peak: float, repeats: int) -> Row:
        """Returns what products with so many rows achieve; peak: operations a second."""
        x = torch.randn(rows, _INPUTS).bfloat16()
        y = torch.empty(rows, _INPUTS, dtype=torch.bfloat16)
        warm = _best(lambda: self._multiply(self.layers[:1] * 32, x, y), repeats) / 32
        cold = _best(lambda: self._multiply(self.layers, x, y), repeats) / len(self.layers)
        operations, packed = 2 * rows * _INPUTS**2, _INPUTS**2 / 2
        return {
            "rows": rows,
            "in cache GB/s": packed / warm / 1e9,
            "in cache / FMA peak": operations / warm / peak,
            "from memory GB/s": packed / cold / 1e9,
            "from memory / FMA peak": operations / cold / peak,
        }

    def _multiply(self, layers: list[NativeLinear], x: Tensor, y: Tensor) -> None:
        for layer in layers:
            self.library.linear(layer.structure, x.data_ptr(), len(x), y.data_ptr())


def _layer() -> Any:  # noqa: ANN401 - bitsandbytes ships no types
    four_bit.register()
    layer = bnb.nn.Linear4bit(_INPUTS, _INPUTS, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    weights = torch.randn(_INPUTS, _INPUTS)
    layer.weight = bnb.nn.Params4bit(weights, requires_grad=False, blocksize=64, quant_type="nf4")
    pack(layer.to("cpu"))
    return layer


def _with_other_codes(layer: Any) -> Any:  # noqa: ANN401 - as above
    other = copy.deepcopy(layer)
    other.weight.data = torch.randint(256, layer.weight.shape, dtype=torch.uint8)
    return other


def _best(work: Callable[[], object], repeats: int) -> float:
    """Returns the least time of this thread, which others on the core lengthen as little as can be."""
    times = []
    for _ in range(repeats + 1):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


def fma_peak(level: CpuLevel, repeats: int) -> float:
    """Returns the floating-point operations that a core does in a second at most, at a level."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        flags = ["-O3", *level.compiler_flags(), "-shared", "-fPIC", f"-I{Path(native.__file__).parent}"]
        subprocess.run([native._compiler(), *flags, "-o", path, SOURCE], check=True)  # noqa: SLF001 - the same compiler
        function = ctypes.CDLL(str(path)).peak
        function.restype = ctypes.c_int64
        function.argtypes = (ctypes.c_int64, ctypes.c_void_p)
        result = ctypes.c_float()
        operations = int(function(PEAK_ROUNDS, ctypes.addressof(result)))
        return operations / _best(lambda: function(PEAK_ROUNDS, ctypes.addressof(result)), repeats)


def native_rows(repeats: int, level: str = "auto") -> list[Row]:
    """Returns the figures for each number of rows."""
    kernel = Kernel.of(level)
    peak = fma_peak(kernel.level, repeats)
    return [{"level": kernel.level.name, **kernel.row(rows, peak, repeats)} for rows in ROWS]


def bars(rows: list[Row]) -> dict[str, bool | None]:
    """Returns whether products are as fast as they are to be with AVX2; None at other levels."""
    found: dict[str, bool | None] = {}
    for row in rows:
        count = row["rows"]
        if not isinstance(count, int) or count not in BARS:
            continue
        column, unit = ("in cache GB/s", "GB/s") if count == 1 else ("in cache / FMA peak", "of the FMA peak")
        value = row[column]
        is_held = isinstance(value, float) and value >= BARS[count]
        found[f"AVX2 at {count} rows: {BARS[count]:g} {unit}"] = is_held if row["level"] == "avx2" else None
    return found
