"""Lives that ended while captured steps were tried are known to the next one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worker.runners.cuda.lives import deaths, key_of, marked

ROOT = Path(__file__).parents[4]
KEY = key_of("a card")
LIFE = """
import sys
from pathlib import Path
from worker.runners.cuda.lives import marked
with marked(Path(sys.argv[1]), sys.argv[2]):
    print("tries", flush=True)
    sys.stdin.read()
"""


def life(folder: Path) -> "subprocess.Popen[str]":
    """Returns a process that is in the middle of its trial."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIFE, str(folder), KEY],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "tries\n"
    return process


def test_a_life_that_ends_in_its_trial_is_known_to_the_next_and_one_that_lives_is_none(tmp_path: Path) -> None:
    first, second = life(tmp_path), life(tmp_path)
    assert deaths(tmp_path, KEY) == []
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(deaths(tmp_path, KEY)) == 1
    second.communicate()
    assert len(deaths(tmp_path, KEY)) == 1
    assert deaths(tmp_path, key_of("another card")) == []


def test_a_trial_that_ends_well_or_with_an_error_of_its_own_leaves_nothing(tmp_path: Path) -> None:
    with marked(tmp_path, KEY):
        pass
    with pytest.raises(ValueError, match="damaged"), marked(tmp_path, KEY):
        raise ValueError("damaged")
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_lost_counts_as_an_end(tmp_path: Path) -> None:
    with pytest.raises(torch.AcceleratorError), marked(tmp_path, KEY):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert len(deaths(tmp_path, KEY)) == 1


def test_after_a_day_it_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(torch.AcceleratorError), marked(tmp_path, KEY):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert deaths(tmp_path, KEY, now=time.time() + 25 * 3600) == []
    assert list(tmp_path.iterdir()) == []


def test_where_no_mark_can_be_left_the_trial_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with marked(tmp_path / "file", KEY):
        pass
    assert deaths(tmp_path / "file", KEY) == []
