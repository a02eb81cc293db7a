"""Compiles the C code for a level of CPU, keeps what was compiled on disk, and loads it."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...loading.cpu_level import CpuLevel, cpu_features
from .structures import Linear, Model, Tokens

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent
# Products and sums are rounded each, unless the code says otherwise: so levels can have the same bits.
_FLAGS = ("-O3", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
_COMPILE_S = 120.0


class NativeError(Exception):
    """The C code could not be compiled or loaded."""


class Library:
    """The compiled functions. Calls let other Python threads run."""

    def __init__(self, path: Path, threads: int) -> None:
        """Loads what was compiled; it computes with so many threads."""
        self.path = path
        self.threads = threads
        # Its OpenMP is the one that torch has loaded, by name: their threads are the same.
        functions = ctypes.CDLL(str(path))
        self._forward = functions.textserve_forward
        self._forward.argtypes = (ctypes.POINTER(Model), ctypes.POINTER(Tokens), ctypes.c_int64)
        self._linear = functions.textserve_linear
        self._linear.argtypes = (
            ctypes.POINTER(Linear),
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
        )

    def forward(self, model: Model, tokens: Tokens) -> None:
        """Runs tokens through a model. Raises MemoryError, with nothing done."""
        if self._forward(model, tokens, self.threads):
            raise MemoryError("no memory for the activations of a step")

    def linear(self, layer: Linear, x: int, rows: int, y: int, *, wide: bool = False) -> None:
        """Multiplies [rows, inputs] at x; the product goes to y. Raises MemoryError, with nothing done.

        Both are bfloat16, or, if wide, float32, for layers that round their activations to int16.
        """
        if self._linear(layer, x, rows, y, wide, self.threads):
            raise MemoryError("no memory for a product")


def load(threads: int, level: CpuLevel, folder: Path | None = None) -> Library:
    """Returns the library, compiled now unless it was before.

    Args:
        threads: how many compute.
        level: of the CPU, one that this machine can run.
        folder: as for `compiled`.

    Raises NativeError as `compiled`, and if what was made cannot be loaded.
    """
    path = compiled(_SOURCES / "kernels.c", level, folder=folder)
    try:
        return Library(path, threads)
    except OSError as error:
        raise NativeError(str(error)) from error


def compiled(source: Path, level: CpuLevel, *, flags: Sequence[str] = (), folder: Path | None = None) -> Path:
    """Returns the path of a library, compiled now unless it was before.

    Args:
        source: a C file; what it includes lies beside it.
        level: of the CPU that it is for, one that this machine can run.
        flags: for the compiler, beside those that all get.
        folder: where what was compiled is kept; by default `textserve` in the user's folder for caches.

    Raises NativeError if there is no compiler, it fails, what it made cannot be kept, or others than this user can
    write what is kept.
    """
    folder = folder or _cache_folder()
    command = (_compiler(), *_FLAGS, *level.compiler_flags(), *flags)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_writers(folder)
        path = folder / f"{source.stem}-{level.name}-{_fingerprint(source.parent, command)}.so"
        if not _is_kept(path):
            _compile(command, source, path)
    except OSError as error:
        raise NativeError(str(error)) from error
    return path


def _is_kept(path: Path) -> bool:
    """Returns whether a file is there, and whole: loading one that was cut off may end the process."""
    if not path.exists():
        return False
    _check_writers(path)
    content = path.read_bytes()
    return content == _sealed(content[: -hashlib.sha256().digest_size])


def _sealed(content: bytes) -> bytes:
    """Returns a library with its digest behind it, where the loader does not look."""
    return content + hashlib.sha256(content).digest()


def _check_writers(path: Path) -> None:
    """Refuses what others may have written: it would run as this user."""
    status = path.stat()
    if status.st_uid not in {0, os.getuid()} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NativeError(f"others than this user can write {path}, which is to be run")


def _cache_folder() -> Path:
    # A path that is not absolute is to be ignored: XDG Base Directory Specification.
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (folder if folder.is_absolute() else Path.home() / ".cache") / "textserve"
    except RuntimeError as error:
        raise NativeError("this user has no home folder to keep what is compiled; set XDG_CACHE_HOME") from error


def _compiler() -> str:
    # gcc first: its OpenMP is torch's; that of clang would be a second set of threads.
    found = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    if found is None:
        raise NativeError("there is no C compiler (gcc, cc or clang)")
    return found


def _fingerprint(sources: Path, command: Sequence[str]) -> str:
    """Returns what changes when the code, the compiler, what it is told or the CPU's features do."""
    digest = hashlib.sha256()
    for source in sorted(sources.glob("*.[ch]")):
        digest.update(source.read_bytes())
    status = Path(command[0]).resolve().stat()
    cpu = sorted(cpu_features())
    if not cpu:
        raise NativeError("the CPU's features cannot be read from /proc/cpuinfo")
    digest.update(repr((command, status.st_size, status.st_mtime_ns, platform.machine(), cpu)).encode())
    return digest.hexdigest()[:16]


def _compile(command: Sequence[str], source: Path, path: Path) -> None:
    """Compiles into place; workers that start at once may all do so."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        _run([*command, "-o", str(made), str(source), "-lm"])
        made.write_bytes(_sealed(made.read_bytes()))
        made.chmod(0o700)
        made.replace(path)
    logger.info("compiled the kernels for this CPU: %s", path)


def _run(command: list[str]) -> None:
    """Runs the compiler. Raises NativeError if it fails or takes too long."""
    # In a session of its own: what it has started in its turn is ended with it, and holds its output open no longer.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            _, complaint = process.communicate(timeout=_COMPILE_S)
        except subprocess.TimeoutExpired as error:
            raise NativeError(str(error)) from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise NativeError(f"{command[0]} failed: {complaint.strip()[-500:]}")
