"""Without a GPU nothing of the fast path is loaded or made."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.worker.tiny_models import tiny_llama
from worker.runners.cuda.assembly import cuda_runner

ROOT = Path(__file__).parents[4]


def test_the_fast_path_is_imported_without_triton() -> None:
    program = "import sys; sys.modules['triton'] = None; import worker.runners.cuda.assembly"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_model_on_a_cpu_has_no_captured_steps() -> None:
    assert cuda_runner(tiny_llama(), torch.device("cpu")) is None
