"""Which level a CPU has, which can be asked for, and what follows from it."""

from pathlib import Path

import pytest
import torch

from worker.domain.config import Config
from worker.flags import check
from worker.loading.cpu_level import LEVELS, Arithmetic, CpuLevel, cpu_level, runnable_levels
from worker.loading.weights import compute_dtype
from worker.runners.native.assembly import native_code

AVX2 = "avx2 fma f16c"
AVX512 = AVX2 + " avx512f avx512bw avx512vl avx512dq"
CPUS = {
    "Zen 4": ("x86_64", "flags", f"{AVX512} avx512_bf16 avx512_vnni", ["avx512bf16", "avx512", "avx2", "generic"]),
    "Skylake-X": ("x86_64", "flags", AVX512, ["avx512", "avx2", "generic"]),
    "Zen 3": ("x86_64", "flags", AVX2, ["avx2", "generic"]),
    "Nehalem": ("x86_64", "flags", "sse4_2", ["generic"]),
    "Graviton": ("aarch64", "Features", "fp asimd bf16", ["neon", "generic"]),
    "nothing that Linux tells": ("x86_64", "model name", "", ["generic"]),
}


def put(cpu: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts another CPU into this machine. Returns the names of its levels."""
    machine, key, features, levels = CPUS[cpu]
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor\t: 0\n{key}\t\t: {features}\n")
    return levels


@pytest.mark.parametrize("cpu", CPUS)
def test_a_cpu_has_the_levels_whose_features_it_has_the_fastest_first(
    cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = put(cpu, monkeypatch)
    assert [level.name for level in runnable_levels()] == levels
    assert cpu_level().name == levels[0]
    assert [cpu_level(name).name for name in levels] == levels


@pytest.mark.parametrize("name", ["avx512bf16", "neon", "sse9", "", "AVX2"])
def test_a_level_that_a_cpu_cannot_run_is_refused_with_those_that_it_can(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("Zen 3", monkeypatch)
    expected = f"--cpu-level must be auto or what this CPU can run, avx2 or generic, not {name!r}"
    assert check(Config(cpu_level=name)) == expected
    assert check(Config(cpu_level="avx2")) == ""


@pytest.mark.parametrize(
    ("cpu", "level", "flag"),
    [("Zen 4", "avx512bf16", "-mavx512vnni"), ("Zen 4", "avx512", "-mavx512vnni"), ("Zen 4", "avx2", "")],
)
def test_what_a_cpu_has_beyond_its_level_is_made_use_of_where_the_level_can(
    cpu: str, level: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cpu, monkeypatch)
    assert ("-mavx512vnni" in cpu_level(level).compiler_flags()) == bool(flag)
    put("Skylake-X", monkeypatch)
    assert "-mavx512vnni" not in cpu_level("avx512").compiler_flags()


@pytest.mark.parametrize(
    ("cpu", "level", "int8"),
    [("Zen 4", "auto", True), ("Zen 4", "avx512", True), ("Zen 4", "avx2", False), ("Skylake-X", "auto", False)],
)
def test_int8_is_for_avx512_vnni_alone(cpu: str, level: str, monkeypatch: pytest.MonkeyPatch, *, int8: bool) -> None:
    put(cpu, monkeypatch)
    arithmetics: tuple[Arithmetic, ...] = ("exact", "int16", "int8") if int8 else ("exact", "int16")
    assert cpu_level(level).arithmetics() == arithmetics


def test_int8_that_a_level_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="--activations int8 is for CPUs with AVX512-VNNI alone; this one runs as gen"):
        native_code(Config(cpu_level="generic", activations="int8"))


def test_rounded_activations_on_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="--activations int16 is for models on a CPU alone"):
        native_code(Config(activations="int16"))
    assert native_code(Config()) is None


class Code:
    """The C code for a level."""

    arithmetic: Arithmetic = "int16"

    def __init__(self, level: CpuLevel) -> None:
        self.level = level

    def obstacle(self, model: object) -> str:
        return ""

    def obstacle_by_design(self, skeleton: object) -> str:
        return ""


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("runs_in_c", [True, False])
def test_a_level_computes_in_bfloat16_what_runs_in_c_or_bitsandbytes_has_a_kernel_for(
    level: CpuLevel, *, runs_in_c: bool
) -> None:
    expected = torch.bfloat16 if runs_in_c or level.name == "avx512bf16" else torch.float32
    assert compute_dtype(Config(device_map="cpu"), Code(level), runs_in_c=runs_in_c) is expected
    asked = Config(device_map="cpu", compute_dtype="float16")
    assert compute_dtype(asked, Code(level), runs_in_c=runs_in_c) is torch.float16
