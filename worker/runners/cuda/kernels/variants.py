"""Triton's kernels are compiled before their first launch, several at a time.

A kernel is compiled anew for every type, size and number that is built into it: some dozens of variants, of a second
or two each on one processor, which a worker would wait for one after the other. Triton keeps them on disk
(`TRITON_CACHE_DIR`, by default `~/.triton/cache`), so that the next start finds them there.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

_MOST_THREADS = 8
"""The compiler takes memory, too, and workers of several GPUs start at a time."""


@dataclass
class Variants:
    """What was compiled ahead."""

    keys: set[int] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    """How many there are of each kernel."""

    def add(self, name: str, key: int) -> None:
        """Counts a variant in, once."""
        if key not in self.keys:
            self.keys.add(key)
            self.names[name] += 1


_compiling: ContextVar[Variants | None] = ContextVar("compiling", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: object, **settings: object) -> None:  # noqa: ANN401 - Triton ships no types
    """Launches a kernel; within `compiling` it is compiled instead, and nothing is computed."""
    variants = _compiling.get()
    if variants is None:
        kernel[grid](*arguments, **settings)
        return
    made = kernel.run(*arguments, grid=grid, warmup=True, **settings)
    variants.add(kernel.__name__, id(made))


@contextmanager
def compiling(processors: int, executor: Executor | None = None) -> Iterator[Variants]:
    """Within this, what would be launched is compiled instead, so many kernels at a time; it ends when all are.

    What cannot be compiled is left to its first launch, which tells why.
    """
    from triton.runtime._async_compile import AsyncCompileMode  # noqa: PLC0415 - loaded only where a GPU runs it

    began, variants = time.perf_counter(), Variants()
    with executor or ThreadPoolExecutor(min(_MOST_THREADS, processors)) as pool:
        token = _compiling.set(variants)
        try:
            with AsyncCompileMode(pool, ignore_errors=True):
                yield variants
        finally:
            _compiling.reset(token)
    logger.info(
        "%d variants of kernels are compiled (%s), in %.1f s",
        variants.names.total(),
        ", ".join(f"{name} {count}" for name, count in sorted(variants.names.items())),
        time.perf_counter() - began,
    )
