"""The run on a GPU, without one: it says so; parts are cut short, and what they printed is kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_day
from bench.gpu_day import Part

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_day", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gpu-day needs a GPU: torch")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_part_that_fails_or_takes_too_long_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_day, "LEAST_S", 0.0)
    parts = [
        Part("quick", ("-c", "print('seen')"), 60),
        Part("wrong", ("-c", "raise SystemExit(3)"), 60),
        Part("endless", ("-c", "print('begun'); input()"), 1),
    ]
    results = gpu_day.run(parts, tmp_path, 100)
    assert [each.outcome for each in results[:2]] == ["done", "failed"]
    assert (tmp_path / "quick.txt").read_text() == "seen\n"
    assert [each["name"] for each in json.loads((tmp_path / "summary.json").read_text())] == [
        "quick",
        "wrong",
        "endless",
    ]


def test_what_has_no_time_left_is_not_begun(tmp_path: Path) -> None:
    (result,) = gpu_day.run([Part("late", ("-c", "print(1)"), 60)], tmp_path, 1)
    assert result.outcome == "not begun"
    assert not (tmp_path / "late.txt").exists()


@pytest.mark.long
def test_tests_of_parts_are_collected_without_any_plugin_or_configuration() -> None:
    for part in gpu_day.PARTS:
        if "pytest" in part.arguments:
            command = [sys.executable, *part.arguments, "--collect-only"]
            environment = {**gpu_day._environment({}), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
