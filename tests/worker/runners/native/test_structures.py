"""The structures are laid out in Python as in C: the compiler is asked."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from worker.loading.cpu_level import CpuLevel
from worker.runners.native import library as library_module
from worker.runners.native import linear, obstacles, steps, structures
from worker.runners.native.library import _compiler

SOURCES = Path(library_module.__file__).parent
STRUCTURES = (
    structures.Linear,
    structures.Norm,
    structures.Experts,
    structures.Layer,
    structures.Model,
    structures.Slab,
    structures.Tokens,
)
KINDS = (structures.NormKind, structures.HeadNorms, structures.GateKind)
PLACE_FIELDS = ("slab", "row", "first", "column")
"""Of `place`, which Python writes as a tensor of int64."""


def check(assertions: list[str], level: CpuLevel) -> str:
    """Lets the compiler check assertions behind the sources. Returns what it complains about."""
    text = "\n".join(
        ['#include "kernels.c"', "#include <stddef.h>", *(f'_Static_assert({each}, "");' for each in assertions)]
    )
    command = [_compiler(), *level.compiler_flags(), "-fopenmp", "-fsyntax-only", f"-I{SOURCES}", "-x", "c", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stderr


@pytest.mark.usefixtures("library")
def test_every_field_is_where_the_c_code_expects_it(level: CpuLevel) -> None:
    assertions = [
        f"offsetof({each.__name__.lower()}, {name}) == {getattr(each, name).offset}"
        for each in STRUCTURES
        for name, *_ in each._fields_
    ]
    sizes = [
        f"sizeof((({each.__name__.lower()} *)0)->{name}) == {getattr(each, name).size}"
        for each in STRUCTURES
        for name, *_ in each._fields_
    ]
    assert check(assertions + sizes, level) == ""


@pytest.mark.usefixtures("library")
def test_every_structure_has_the_size_that_it_has_in_c(level: CpuLevel) -> None:
    assert check([f"sizeof({each.__name__.lower()}) == {ctypes.sizeof(each)}" for each in STRUCTURES], level) == ""


@pytest.mark.usefixtures("library")
def test_a_place_is_four_numbers_of_64_bits(level: CpuLevel) -> None:
    assertions = [f"offsetof(place, {name}) == {8 * index}" for index, name in enumerate(PLACE_FIELDS)]
    assert check([*assertions, "sizeof(place) == 32"], level) == ""


@pytest.mark.usefixtures("library")
def test_limits_written_twice_are_the_same(level: CpuLevel) -> None:
    limits = {
        "MAX_HEAD_DIM": obstacles._MAX_HEAD_DIM,
        "PANEL_INPUTS": linear._PANEL_INPUTS,
        "ROUNDING_BLOCK": steps.ROUNDING_BLOCK,
        **{name.upper(): number for number, name in enumerate(linear._ARITHMETICS)},
        **{each.name: each for kind in KINDS for each in kind},
    }
    assert check([f"{name} == {value}" for name, value in limits.items()], level) == ""


@pytest.mark.usefixtures("library")
def test_a_field_in_another_place_is_noticed(level: CpuLevel) -> None:
    assert "static assertion failed" in check(["offsetof(model, head) == 0"], level)
