"""What the Makefile makes of what it is given."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make on this machine")
@pytest.mark.parametrize("target", ["serve", "demo"])
@pytest.mark.parametrize("model", ["/a/b", "/a/two words", "it's", '"quoted"; rm x'])
def test_a_model_is_one_argument_whatever_its_name(target: str, model: str) -> None:
    make = shutil.which("make") or ""
    dry = subprocess.run(
        [make, "--dry-run", "--silent", target, f"MODEL={model}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    command = shlex.split(dry.stdout.splitlines()[-1])
    assert command[command.index("--model") + 1] == model
