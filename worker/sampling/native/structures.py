"""What the C functions take: the structures of row.h, survivors.h and sampling.c, field by field."""

import ctypes
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = Tensor | NDArray[np.int64]
Values = Tensor | NDArray[np.float32]


class Kind(IntEnum):
    """`edit_kind`: what is done to some logits of a row."""

    ADD = 0
    REPEAT = 1
    OUTPUT = 2
    BAN = 3
    ONLY = 4
    FORCE = 5
    GROW = 6


class Edit(ctypes.Structure):
    """`edit`: one processor's work on a row."""

    _fields_ = (
        ("ids", c_void_p),
        ("values", c_void_p),
        ("count", c_int64),
        ("kind", c_int32),
        ("first", c_float),
        ("second", c_float),
    )


def edit(kind: Kind, ids: Ids, values: Values | None = None, *, first: float = 0.0, second: float = 0.0) -> Edit:
    """Returns an edit of the logits at distinct ids, [count] of int64; values are float32 [count].

    It keeps the arrays, of which the structure holds addresses alone.
    """
    made = Edit(_address(ids), None if values is None else _address(values), len(ids), kind, first, second)
    made.arrays = (ids, values)
    return made


def _address(array: Tensor | NDArray[Any]) -> int:
    return array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data


class Settings(ctypes.Structure):
    """`settings`: how a row chooses its token."""

    _fields_ = (
        ("seed", c_uint64),
        ("index", c_uint64),
        ("top_k", c_int64),
        ("temperature", c_float),
        ("rest", c_float),
        ("min_p", c_float),
        ("typical_p", c_float),
        ("epsilon", c_float),
        ("samples", c_int32),
        ("top_logprobs", c_int64),
        ("edit_count", c_int64),
        ("edits", POINTER(Edit)),
    )


class Outcome(IntEnum):
    """`outcome`: what became of a row."""

    NOT_FINITE = 0
    NONE_LEFT = 1
    CHOSEN = 2


class Answer(ctypes.Structure):
    """`answer`: a row's token, and its log-probability if that was asked for."""

    _fields_ = (
        ("token", c_int64),
        ("outcome", c_int64),
        ("rank", c_int64),
        ("top_count", c_int64),
        ("top_ids", c_void_p),
        ("top_logprobs", c_void_p),
        ("logprob", c_float),
    )


class Functions:
    """The functions of sampling.c. Calls let other Python threads run."""

    def __init__(self, path: str) -> None:
        """Loads what was compiled. Raises OSError if that fails."""
        functions = ctypes.CDLL(path)
        self._bytes = functions.textserve_sample_bytes
        self._bytes.argtypes = (POINTER(Settings), c_int64, c_int64, c_int64)
        self._bytes.restype = c_int64
        self._sample = functions.textserve_sample
        self._sample.argtypes = (c_void_p, POINTER(Settings), POINTER(Answer), c_int64, c_int64, c_int64, c_void_p)
        self._sample.restype = None
        self._powers = functions.textserve_powers
        self._powers.argtypes = (c_void_p, c_int64, c_void_p)
        self._powers.restype = c_int64
        self._uniform = functions.textserve_uniform
        self._uniform.argtypes = (c_uint64, c_uint64)
        self._uniform.restype = c_double
        self._memory = torch.empty(0, dtype=torch.uint8)

    def sample(
        self, logits: Tensor, settings: ctypes.Array[Settings], answers: ctypes.Array[Answer], threads: int
    ) -> None:
        """Fills in the answers, one for each row of float32 logits [rows, vocabulary], which are not changed."""
        rows, vocabulary = logits.shape
        needed = self._bytes(settings, rows, vocabulary, threads) + _LINE
        if len(self._memory) < needed:
            # Kept: memory that is new at every step would have to be mapped again.
            self._memory = torch.empty(needed, dtype=torch.uint8)
        memory = -(-self._memory.data_ptr() // _LINE) * _LINE
        self._sample(logits.data_ptr(), settings, answers, rows, vocabulary, threads, memory)

    def powers(self, x: Tensor) -> tuple[Tensor, int]:
        """Returns e to the power of float32 [count], and what these add up to in units of 2^-40."""
        found = torch.empty_like(x)
        return found, self._powers(x.data_ptr(), len(x), found.data_ptr())

    def uniform(self, seed: int, index: int) -> float:
        """Returns a random number as `random_numbers.uniforms` does."""
        return float(self._uniform(seed, index))


_LINE = 64
"""Bytes of a cache line."""
