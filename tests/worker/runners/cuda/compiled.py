"""Compiles Triton's kernels for cards that are not there, with the arguments that the service launches them with.

Whoever launches a kernel within `compiled_for` gets nothing computed: it is compiled for the card that was named, and
what ptxas says of it is written down.
"""

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

SHARED_BYTES = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
"""Shared memory that a block may have, by compute capability: of T4, A100, RTX 3090, RTX 4090, H100 and RTX 5090."""
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """A kernel as it is for a card."""

    name: str
    registers: int
    """Of each thread."""
    shared_bytes: int
    """Of each block."""
    stack_bytes: int
    """Of each thread, in memory outside of the processor: what did not fit into registers."""
    machine_code: str = field(repr=False)
    """As nvdisasm prints it."""

    def count(self, instruction: str) -> int:
        """Returns how often an instruction, or one of its kinds, is in the machine code."""
        return len(re.findall(rf"\b{instruction}\b", self.machine_code))


_numbers = itertools.count()


class _AbsentCard:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self._number = next(_numbers)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._number  # kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiled_for(capability: int) -> Iterator[list[Compiled]]:
    """Within this, kernels are compiled instead of launched; the list is of those that were, each once."""
    found: dict[str, Compiled] = {}
    kernels: Any = JITFunction
    cards: Any = driver
    launch = kernels.__getitem__

    def compile_instead(kernel: Any, grid: Any) -> Any:
        def compile_once(*args: Any, **settings: Any) -> None:
            made = kernel.run(*args, grid=grid, warmup=True, **settings)
            if made.hash not in found:
                found[made.hash] = _looked_at(made)

        return compile_once

    kernels.__getitem__ = compile_instead
    cards.set_active(_AbsentCard(capability))
    results: list[Compiled] = []
    try:
        yield results
    finally:
        kernels.__getitem__ = launch
        cards._active = None  # `reset_active` looks for a card
        results += found.values()


def _looked_at(kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        machine_code = _run("nvdisasm", "-c", file.name)
    registers, stack, shared = (int(re.findall(rf"\b{what}:(\d+)", usage)[-1]) for what in ("REG", "STACK", "SHARED"))
    # Shared memory that a launch asks for is no part of the file.
    return Compiled(kernel.name, registers, max(shared, kernel.metadata.shared), stack, machine_code)


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *arguments], capture_output=True, text=True, check=True).stdout
