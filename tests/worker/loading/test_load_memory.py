"""How much memory a load takes at its peak, measured in a process of its own, and what stays of the files after it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.worker.tiny_models import save_tiny_llama, tiny_llama, tiny_tokenizer
from worker.domain.config import Config, Quantization
from worker.loading.loading import load
from worker.quantize import quantize

ComputeDtype = Literal["bfloat16", "float32"]

ROOT = Path(__file__).parents[3]
MIB = 2**20
SLACK = 6 * MIB
"""The allocator's own, and pieces that are being quantized."""

MEASURE = """
import json, pathlib, sys, psutil
from worker.domain.config import Config
from worker.loading.load_report import peak_bytes
from worker.loading.loading import load

load(Config(model=sys.argv[1]))  # all that is imported and set up once
before = psutil.Process().memory_info().rss
model = load(Config(model=sys.argv[2], quantization=sys.argv[3], compute_dtype=sys.argv[4])).model
print(json.dumps([peak_bytes() - before, model.get_memory_footprint()]))
"""


@dataclass(frozen=True)
class Measured:
    peak: int
    """Bytes that were held at most, beside what was held before."""
    footprint: int
    """Bytes of the loaded weights."""


def measure(
    small: Path, folder: Path, quantization: Quantization = "nf4", compute_dtype: ComputeDtype = "bfloat16"
) -> Measured:
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(small), str(folder), quantization, compute_dtype]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return Measured(*json.loads(ended.stdout))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 16-bit checkpoint of 72 MiB in shards of at most 12 MiB."""
    folder = tmp_path_factory.mktemp("shards")
    model = tiny_llama(hidden_size=1024, intermediate_size=2816).bfloat16()
    model.save_pretrained(folder, max_shard_size=12 * MIB)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.safetensors")]


@pytest.mark.parametrize(
    ("quantization", "compute_dtype"),
    # To float32 each weight is converted before it is quantized: twice as much comes and goes.
    [
        ("nf4", "bfloat16"),
        pytest.param("fp4", "bfloat16", marks=pytest.mark.long),
        pytest.param("nf4", "float32", marks=pytest.mark.long),
    ],
)
def test_beside_the_quantized_weights_no_more_than_one_shard_is_held(
    llama_folder: Path, shards: Path, quantization: Quantization, compute_dtype: ComputeDtype
) -> None:
    assert len(sizes(shards)) >= 6
    measured = measure(llama_folder, shards, quantization, compute_dtype)
    assert measured.footprint < sum(sizes(shards)) * 0.6
    assert measured.peak <= measured.footprint + max(sizes(shards)) + SLACK


@pytest.mark.long
def test_a_checkpoint_that_was_quantized_before_is_held_once(llama_folder: Path, shards: Path, tmp_path: Path) -> None:
    quantize(Config(model=str(shards)), tmp_path / "out")
    measured = measure(llama_folder, tmp_path / "out")
    assert measured.peak <= measured.footprint + SLACK


def test_files_that_change_leave_a_quantized_model_alone(tmp_path: Path) -> None:
    # In float32, as it is stored: nothing needs to be converted and so copied.
    loaded = load(Config(model=str(save_tiny_llama(tmp_path)), compute_dtype="float32"))
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    weights = tmp_path / "model.safetensors"
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
