"""How the C code parts tokens into runs, and guards its stages: a small program calls what Python does not reach."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.loading.cpu_level import CpuLevel
from worker.runners.native import library as library_module
from worker.runners.native.library import Library, _compiler

SOURCES = Path(library_module.__file__).parent
Program = Callable[..., subprocess.CompletedProcess[str]]

SPLIT = """
    int64_t first, columns, count;
    sscanf(arguments[2], "%ld:%ld:%ld", &first, &columns, &count);
    const int64_t heads = atoi(arguments[1]), end = first + columns;
    layer layers[2] = {{.window = atoi(arguments[3])}, {.window = atoi(arguments[4])}};
    const model m = {.layers = layers, .layer_count = 2, .heads = heads, .key_heads = 1};
    place places[64];
    for (int64_t token = 0; token < count; token++)
        places[token] = (place){.first = first, .column = end - count + token};
    const tokens t = {.count = count, .places = places};
    run runs[64];
    activations a = {.runs = runs};
    const int64_t scores = split(&m, &t, &a);
    for (int64_t index = 0; index < a.run_count; index++) printf("%ld ", runs[index].count);
    printf("%ld\\n", scores);
"""
"""Prints the lengths of the runs of a row's newest tokens, and the floats for scores.

Arguments: queries for a head of keys; first column, columns and new tokens; windows of two layers."""

STAGES = """
    stage stages[3] = {0};
    member *self = &(member){stages, 2, 1, 0, 0};
    for (int stage = 0; stage < atoi(arguments[1]); stage++) { SHARE(unit, 4) printf("%ld ", unit); }
"""
"""Goes through stages where there is room for two."""


@pytest.fixture(scope="module")
def program(library: Library, level: CpuLevel, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Compiles what runs SPLIT when it is given several arguments, and STAGES with a single one."""
    assert library
    path = tmp_path_factory.mktemp("program") / "program"
    text = f"""
        #include <stdio.h>
        #include "kernels.c"
        static void run_split(char **arguments) {{ {SPLIT} }}
        static void run_stages(char **arguments) {{ {STAGES} }}
        int main(int count, char **arguments) {{ (count > 2 ? run_split : run_stages)(arguments); }}
    """
    flags = ["-O1", *level.compiler_flags(), "-fopenmp", f"-I{SOURCES}"]
    command = [_compiler(), *flags, "-x", "c", "-", "-o", str(path), "-lm"]
    subprocess.run(command, input=text, text=True, check=True)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(path), *map(str, arguments)], capture_output=True, text=True, check=False)

    return run


def runs(program: Program, *arguments: object) -> list[int]:
    """Returns the lengths of runs, and behind them the floats for scores."""
    return list(map(int, program(*arguments).stdout.split()))


@pytest.mark.parametrize(
    ("heads", "columns", "least"),
    [(8, 1000, 8), (8, 8_200, 7), (8, 1_000_000, 2), (1, 1_000_000, 16), (16, 1_000_000, 2), (32, 1_000_000, 2)],
)
def test_a_tile_has_several_tokens_however_long_the_row(heads: int, columns: int, least: int, program: Program) -> None:
    *lengths, _ = runs(program, heads, f"5:{columns}:64", 0, 0)
    assert sum(lengths) == 64
    assert all(length >= least for length in lengths[:-1])


def test_more_queries_than_a_tile_has_are_taken_token_by_token(program: Program) -> None:
    assert runs(program, 33, "0:100:4", 0, 0) == [1, 1, 1, 1, 33 * 112]


def test_the_widest_window_alone_counts_if_all_layers_have_one(program: Program) -> None:
    near, far = (runs(program, 8, f"0:{columns}:16", 64, 1024) for columns in (2_000, 1_000_000))
    assert near == far == [8, 8, 64 * 1040]


def test_a_layer_that_sees_all_needs_scores_for_all(program: Program) -> None:
    assert runs(program, 8, "0:2000:16", 1024, 0) == [8, 8, 64 * 2000]


def test_a_window_wider_than_the_row_needs_no_scores_for_the_rest(program: Program) -> None:
    assert runs(program, 1, "3:20:2", 1024, 1024) == [2, 2 * 32]


def test_a_stage_that_has_no_place_ends_the_process_and_writes_nothing(program: Program) -> None:
    assert program(2).stdout == "0 1 2 3 0 1 2 3 "
    assert program(3).returncode == -signal.SIGABRT
