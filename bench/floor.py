"""Measures what this machine can do, and from it what the engine could at best.

    python -m bench.floor [--json] [--rounds N]

- Memory and matrix products of the processor.
- The products of the model's linear layers with 1 to 64 rows: bitsandbytes' 4-bit kernel, called through its operator
  and directly, separate and fused (packed rows and scales of q, k and v, and of gate and up, concatenated), and
  resident matrices in the head's 16-bit type. The floor of a decode step is the direct, fused calls and the head.
- The 4-bit products of our own C code on one core, as shares of what the core can multiply and add in float32.
- How fast the mixed set of `bench.engine` could be served if nothing but that took time.
"""

import sys
from functools import partial
from typing import Any

import torch

from bench.kernel import four_bit_layers, fused_is_bit_equal
from bench.native_kernel import bars, native_rows
from bench.possible import PREFILL_ROWS, measure_rates, possible
from bench.random_model import random_llama
from bench.report import Row, Section, arguments, show_sections
from bench.step_floor import NO_KERNEL, StepFloor, call_microseconds, run_all
from bench.timing import Work, in_turn, medians
from bench.workload import mixed_set

ROWS = (1, 2, 4, 8, 16, 32, 64)
MAX_ROWS = 16
REPEATS_PER_ROUND = 7
MEMORY_BYTES = 256 * 2**20
GEMM_SIZE = 2048


def memory_rates(repeats: int) -> list[Row]:
    """Returns the rates of copying memory, bytes read plus bytes written, and of reading it."""
    source = torch.ones(MEMORY_BYTES // 4)
    target = torch.empty_like(source)
    copy_s, read_s = medians([partial(target.copy_, source), source.sum], repeats)
    return [
        {"what": "copy", "GB/s": 2 * MEMORY_BYTES / copy_s / 1e9},
        {"what": "read", "GB/s": MEMORY_BYTES / read_s / 1e9},
    ]


def gemm_rates(repeats: int) -> list[Row]:
    """Returns the rates of large square matrix products."""
    single = torch.randn(GEMM_SIZE, GEMM_SIZE)
    half = single.bfloat16()
    single_s, half_s = medians([partial(torch.mm, single, single), partial(torch.mm, half, half)], repeats)
    flop = 2 * GEMM_SIZE**3
    return [
        {"type": "float32", "GFLOP/s": flop / single_s / 1e9},
        {"type": "bfloat16", "GFLOP/s": flop / half_s / 1e9},
    ]


def step_row(floor: StepFloor, model: Any, rows: int, repeats: int) -> Row:  # noqa: ANN401 - untyped model
    """Returns the time of all linear layers of one step by each way, that of the head, and the floor."""
    ways: dict[str, Work] = {"resident": run_all(floor.resident_products(rows))}
    if floor.has_kernel:
        ways |= {
            "operator": _operator_calls(model, rows),
            "separate": run_all(floor.kernel_products(rows, fused=False)),
            "fused": run_all(floor.kernel_products(rows, fused=True)),
        }
    ways |= {"head": floor.head_product(rows).run, "floor": floor.step(rows)}
    taken = medians(list(ways.values()), repeats)
    return {"rows": rows} | {f"{way} ms": 1000 * time for way, time in zip(ways, taken, strict=True)}


def _operator_calls(model: Any, rows: int) -> Work:  # noqa: ANN401 - untyped model
    kernel = torch.ops.bitsandbytes.gemv_4bit.default
    calls = []
    for _, layer in four_bit_layers(model):
        given, state = torch.randn(rows, layer.in_features).bfloat16(), layer.weight.quant_state
        calls.append(partial(kernel, given, layer.weight.data, state.shape, state.absmax, state.code, state.blocksize))
    return in_turn(calls)


def shape_rows(floor: StepFloor, repeats: int) -> list[Row]:
    """Returns the time of one call of the kernel for each shape of layer, separate and fused."""
    found: dict[str, dict[str, object]] = {}
    for rows in ROWS:
        for fused in (False, True):
            for shape, time in call_microseconds(floor.kernel_products(rows, fused=fused), repeats).items():
                found.setdefault(shape, {"layer": shape})[f"{rows} rows us"] = time
    return list(found.values())


def prefill_row(floor: StepFloor, rows: int, repeats: int) -> Row:
    """Returns how many tokens a second all linear layers take when `rows` are read at once."""
    rates = floor.prefill_rates(rows, repeats)
    return {"tokens at once": rows} | {f"{way} tokens/s": rate for way, rate in rates.items()}


def possible_row(floor: StepFloor, repeats: int) -> Row:
    """Returns what is possible for the mixed set."""
    best = possible(mixed_set(), MAX_ROWS, measure_rates(floor, MAX_ROWS, repeats))
    return {
        "rows": MAX_ROWS,
        "prefill s": best.prefill_s,
        "decode s": best.decode_s,
        "tokens/s": best.tokens_per_s,
    }


def kernel_section(floor: StepFloor, repeats: int) -> Section:
    """Measures the kernel for each shape; says so where the CPU has none."""
    if not floor.has_kernel:
        print(NO_KERNEL, file=sys.stderr)
        return Section({}, {})
    shapes = {"4-bit kernel, one call": shape_rows(floor, repeats)}
    return Section(shapes, {"fused products are bit-equal": fused_is_bit_equal(floor.separate)})


def main() -> int:
    """Runs the bench."""
    flags = arguments(__doc__ or "")
    repeats = REPEATS_PER_ROUND * flags.rounds
    model = random_llama().model
    with torch.inference_mode():
        floor = StepFloor.of(model)
        tables = {
            "memory": memory_rates(repeats),
            "matrix products": gemm_rates(flags.rounds),
            "linear layers and head of one step": [step_row(floor, model, rows, repeats) for rows in ROWS],
            "linear layers of a prefill": [prefill_row(floor, rows, flags.rounds) for rows in PREFILL_ROWS],
            "mixed set, possible": [possible_row(floor, repeats)],
        }
        own = native_rows(repeats)
        found = [Section(tables, {}), Section({"C code, one core": own}, bars(own)), kernel_section(floor, repeats)]
    return show_sections("floor", found, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
