"""How glibc's malloc gives memory back to the system: at once while a model loads, with a reserve while it is served.

glibc raises the size from which a piece has its own mapping whenever such a piece is freed (mallopt(3),
M_MMAP_THRESHOLD). Loading frees a large piece and keeps a small one for each weight: in one heap the small ones lie in
the holes of the large ones, which then fit nowhere, and the process ends with several times what it holds.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""
_LOADING = 1 << 20
"""Bytes: below any weight of a size that matters, and a large model gets by with some thousands of mappings."""
_SERVING = 32 << 20
"""The most that glibc raises it to; activations, which come and go with each step, are smaller."""


@contextmanager
def gives_back_at_once() -> Iterator[None]:
    """Within this, every piece of a mebibyte or more goes back to the system when it is freed.

    After it malloc is as glibc's defaults become once something large was freed. Without glibc nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_THRESHOLD, _LOADING)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _SERVING)
        mallopt(_TRIM_THRESHOLD, 2 * _SERVING)
