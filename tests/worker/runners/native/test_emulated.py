"""What is written for AVX512 and for ARM runs on CPUs without them, emulated: the same checks, if few."""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from tests.worker.runners.native.accuracy import Errors, all_logits, own_errors, run, texts
from tests.worker.runners.native.emulated.qemu import COMPILER, EMULATOR, QemuLibrary
from tests.worker.runners.native.matrices import Matrix, activations, dense, four_bit, multiply
from tests.worker.runners.native.models import CASES, Case, bfloat16_model, exact_copy, quantize
from tests.worker.runners.native.test_int8 import TOLERANCE
from worker.loading.cpu_level import LEVELS, Arithmetic, cpu_level, runnable_levels
from worker.runners.native import library as library_module
from worker.runners.native.library import Library, _compiler, load
from worker.runners.native.linear import pack, takes_4bit
from worker.runners.native.runner import NativeRunner

pytestmark = pytest.mark.long

HEADER = Path(__file__).parent / "emulated" / "avx512.h"
SOURCE = Path(library_module.__file__).parent / "kernels.c"
EXTRAS = {"avx512bf16": ["-DEMULATED_BF16_AND_VNNI"], "avx512": []}
OF_ALL_PARTS = (5, 16, 17, 20, 21, 22, 23, 25, 26, 29, 31, 32, 34, 36)
WITH_INT16 = (5, 32)
ROWS = (1, 2, 3, 7, 9, 20)


@pytest.fixture(scope="module", params=[*EXTRAS, "neon"])
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The code for AVX512, and for ARM, on one thread."""
    name = cast(str, request.param)
    levels = [level.name for level in runnable_levels()]
    if name in levels:
        pytest.skip(f"this CPU runs {name} itself")
    if name == "neon":
        if not all(map(shutil.which, (COMPILER, EMULATOR))):
            pytest.skip(f"there is no {COMPILER} or no {EMULATOR}")
        return QemuLibrary(tmp_path_factory.mktemp("qemu"), ("-O2",))
    if platform.machine() != "x86_64" or "avx2" not in levels:
        pytest.skip("the emulation takes AVX2")
    path = tmp_path_factory.mktemp("emulated") / f"{name}.so"
    flags = [*cpu_level("avx2").flags, "-ffp-contract=off", "-w", "-fopenmp", "-shared", "-fPIC", *EXTRAS[name]]
    subprocess.run([_compiler(), "-O0", *flags, "-include", HEADER, "-o", path, SOURCE, "-lm"], check=True)
    return Library(path, 1)


def assert_exact(library: Library, matrix: Matrix, rows: int) -> None:
    x = activations(rows, matrix.layer.in_features)
    difference = (multiply(library, matrix.layer, x).double() - matrix.exact(x)).abs()
    assert (difference <= matrix.tolerance(x)).all(), f"{rows} rows are off by {difference.max():.3g}"


@pytest.mark.parametrize("shape", [(32, 64), (96, 192), (32, 1088)], ids=str)
def test_4bit_products_are_exact_up_to_rounding(emulated: Library, shape: tuple[int, int]) -> None:
    for rows in ROWS:
        assert_exact(emulated, four_bit(*shape, bias=True), rows)


@pytest.mark.parametrize("shape", [(3, 1), (31, 44), (32, 100)], ids=str)
def test_dense_products_are_exact_up_to_rounding(emulated: Library, shape: tuple[int, int]) -> None:
    for rows in ROWS:
        assert_exact(emulated, dense(*shape, bias=True), rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_with_int16_have_the_bits_of_every_level(
    emulated: Library, dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = load(1, LEVELS[-1], tmp_path_factory.getbasetemp() / "generic")
    layer = four_bit(64, 1088, bias=True).layer
    for rows in ROWS:
        x = activations(rows, 1088).to(dtype)
        assert torch.equal(multiply(emulated, layer, x, "int16"), multiply(plain, layer, x, "int16"))


def test_products_with_int8_are_off_by_little_more_than_a_hundredth(emulated: Library) -> None:
    if isinstance(emulated, QemuLibrary):
        pytest.skip("there are none for ARM")
    matrix = four_bit(64, 1088)
    for rows in ROWS:
        x = activations(rows, 1088)
        difference: Tensor = multiply(emulated, matrix.layer, x, "int8").double() - matrix.exact(x)
        assert 0.003 < difference.norm() / matrix.exact(x).norm() < TOLERANCE


# int16 differs in the products alone, whatever a model is made of: one with plain layers, and one with experts.
@pytest.mark.parametrize(
    ("case", "arithmetic"),
    [
        *((CASES[each], "exact") for each in OF_ALL_PARTS),
        *((CASES[each], "int16") for each in WITH_INT16),
    ],
    ids=str,
)
def test_a_model_is_as_exact_as_its_own_forward_pass(case: Case, arithmetic: Arithmetic, emulated: Library) -> None:
    model = quantize(bfloat16_model(case))
    exact = exact_copy(model)
    own = own_errors(model, exact)
    for layer in filter(takes_4bit, model.modules()):
        pack(layer)
    logits, _ = run(model, NativeRunner(model, emulated, arithmetic), texts(model.config.vocab_size))
    assert Errors.of(logits, all_logits(exact, texts(model.config.vocab_size))).are_like(own, choices=case.has_choices)
