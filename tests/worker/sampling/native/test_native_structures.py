"""The structures are laid out in Python as in C: the compiler is asked."""

import ctypes
import subprocess
from typing import Any

import pytest
import torch

from tests.worker.sampling.test_stages import WARPER_SETTINGS
from worker.domain.sequence import SamplingParameters, Sequence
from worker.runners.native.library import _compiler
from worker.sampling.native import structures
from worker.sampling.native.native_sampler import SOURCE, _settings
from worker.sampling.rows import rows_of

STRUCTURES = (structures.Edit, structures.Settings, structures.Answer)


def check(assertions: list[str]) -> str:
    """Lets the compiler check assertions behind the source. Returns what it complains about."""
    text = "\n".join([f'#include "{SOURCE.name}"', *(f'_Static_assert({each}, "");' for each in assertions)])
    command = [_compiler(), "-fopenmp", "-fsyntax-only", f"-I{SOURCE.parent}", "-x", "c", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stderr


@pytest.mark.usefixtures("sampling_library")
def test_every_field_is_where_the_c_code_expects_it() -> None:
    places = [
        f"offsetof({each.__name__.lower()}, {name}) == {getattr(each, name).offset}"
        for each in STRUCTURES
        for name, *_ in each._fields_
    ]
    sizes = [
        f"sizeof((({each.__name__.lower()} *)0)->{name}) == {getattr(each, name).size}"
        for each in STRUCTURES
        for name, *_ in each._fields_
    ]
    wholes = [f"sizeof({each.__name__.lower()}) == {ctypes.sizeof(each)}" for each in STRUCTURES]
    assert check(places + sizes + wholes) == ""


@pytest.mark.usefixtures("sampling_library")
def test_names_have_the_same_numbers() -> None:
    names = [f"{each.name} == {each.value}" for each in (*structures.Kind, *structures.Outcome)]
    assert check(names) == ""


@pytest.mark.usefixtures("sampling_library")
def test_a_field_in_another_place_is_noticed() -> None:
    assert "static assertion failed" in check(["offsetof(settings, top_k) == 0"])


@pytest.mark.parametrize("setting", WARPER_SETTINGS, ids=str)
def test_every_warper_is_told_to_the_c_code(setting: dict[str, Any]) -> None:
    def told(**parameters: Any) -> bytes:
        (row,) = rows_of(torch.zeros(1, 50), [Sequence(0, [2], SamplingParameters(1, do_sample=True, **parameters))])
        return bytes(_settings(row))

    assert told(**setting) != told()
