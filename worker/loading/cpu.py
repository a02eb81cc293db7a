"""Who multiplies 4-bit weights on a CPU: the C code of `runners.native`, or bitsandbytes' own kernel.

Where there is neither, bitsandbytes dequantizes every weight in every step.
"""

from typing import Any, Protocol

from torch import nn

from .cpu_level import Arithmetic, CpuLevel
from .quantization.bitsandbytes_offline import bnb


class CpuCode(Protocol):
    """The C code, compiled for a level of CPU: what loading has to know of it."""

    @property
    def level(self) -> CpuLevel:
        """Returns what it was compiled for."""
        ...

    @property
    def arithmetic(self) -> Arithmetic:
        """Returns what 4-bit layers multiply with."""
        ...

    def obstacle(self, model: Any) -> str:  # noqa: ANN401 - transformers models share no useful static type
        """Returns why a model does not run in C as a whole; empty if it does."""
        ...

    def obstacle_by_design(self, skeleton: nn.Module) -> str:
        """Returns the same for one without weights, as far as it shows: what becomes of its weights does not."""
        ...


def cpu_has_4bit_kernel() -> bool:
    """Returns whether bitsandbytes runs its 4-bit kernel on this CPU; it computes in bfloat16."""
    return bool(bnb.functional.has_avx512bf16())
