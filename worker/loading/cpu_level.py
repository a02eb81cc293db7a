"""The kinds of CPU that the C code is compiled for, and which of them this machine's is.

It is the fastest, or one that is asked for: then this machine computes as those do that can do no more.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Arithmetic = Literal["exact", "int16", "int8"]
"""What 4-bit layers multiply with: activations in bfloat16, or rounded to whole numbers."""


@dataclass(frozen=True)
class CpuLevel:
    """What a CPU can do, and what follows from it."""

    name: str
    needs: frozenset[str]
    """Linux's names of the features without which it does not run."""
    flags: tuple[str, ...]
    """Of the compiler."""
    arithmetic: Arithmetic
    """The fastest that is as exact as bitsandbytes' kernel for CPUs, which rounds activations to bfloat16."""
    has_bfloat16: bool = False
    """Whether torch computes in bfloat16 as fast as in float32 on it."""
    extras: Mapping[str, str] = field(default_factory=dict)
    """Flags for features that are made use of where they are."""
    int8_needs: frozenset[str] | None = None
    """Features for int8 activations; None: it has no products with them, since those with int16 are as fast."""

    def compiler_flags(self) -> tuple[str, ...]:
        """Returns the compiler's flags for this machine."""
        found = cpu_features()
        return (*self.flags, *(flag for feature, flag in self.extras.items() if feature in found))

    def arithmetics(self) -> tuple[Arithmetic, ...]:
        """Returns what 4-bit layers can multiply with on this machine, at this level."""
        int8: tuple[Arithmetic, ...] = ("int8",)
        return ("exact", "int16", *(int8 if self.int8_needs is not None and self.int8_needs <= cpu_features() else ()))


_X86 = ("-mtune=native",)
_AVX2 = (*_X86, "-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_NEEDS_AVX2 = frozenset({"avx2", "fma", "f16c"})
_NEEDS_AVX512 = _NEEDS_AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
_VNNI = {"avx512_vnni": "-mavx512vnni"}
_INT8 = frozenset({"avx512_vnni"})

LEVELS = (
    CpuLevel("avx512bf16", _NEEDS_AVX512 | {"avx512_bf16"}, (*_AVX512, "-mavx512bf16"), "exact", True, _VNNI, _INT8),
    CpuLevel("avx512", _NEEDS_AVX512, _AVX512, "int16", False, _VNNI, _INT8),
    CpuLevel("avx2", _NEEDS_AVX2, _AVX2, "int16", False, {"avx_vnni": "-mavxvnni"}),
    CpuLevel("neon", frozenset({"asimd"}), (), "int16"),
    CpuLevel("generic", frozenset(), ("-DGENERIC",), "int16"),
)
"""The fastest first."""


def runnable_levels() -> tuple[CpuLevel, ...]:
    """Returns the levels that this CPU can run, the fastest first; there is always a last one."""
    features = cpu_features()
    return tuple(level for level in LEVELS if level.needs <= features)


def cpu_level(name: str = "auto") -> CpuLevel:
    """Returns the level of a name, or, for "auto", the fastest that this CPU can run.

    Raises ValueError if this CPU cannot run it, or there is none of that name.
    """
    levels = runnable_levels()
    chosen = next((level for level in levels if name in {"auto", level.name}), None)
    if chosen is None:
        names = [level.name for level in levels]
        raise ValueError(f"--cpu-level must be auto or what this CPU can run, {' or '.join(names)}, not {name!r}")
    return chosen


def cpu_features() -> frozenset[str]:
    """Returns Linux's names for what this CPU can do; none if Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    # x86 calls them flags, ARM Features.
    named = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    features = frozenset(named.partition(":")[2].split())
    return features if platform.machine() in {"x86_64", "AMD64", "aarch64"} else frozenset()
