"""What this machine's CPU can do: whether it has kernels of its own for 4-bit weights."""

from pathlib import Path

from .bitsandbytes_offline import bnb


def cpu_features() -> frozenset[str]:
    """Returns Linux's names for what this CPU can do; none if Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def cpu_multiplies_int8() -> bool:
    """Returns whether the CPU has the instructions for products with int8 activations."""
    return {"avx512_bf16", "avx512_vnni"} <= cpu_features()


def cpu_has_4bit_kernel() -> bool:
    """Returns whether bitsandbytes runs its 4-bit kernel on this CPU; it computes in bfloat16."""
    return bool(bnb.functional.has_avx512bf16())
