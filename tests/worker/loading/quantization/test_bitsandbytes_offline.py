"""What importing bitsandbytes must not do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]

IMPORT = """
import sys, torch
compiler = torch.compile
import worker.loading.quantization.bitsandbytes_offline
assert "bitsandbytes" in sys.modules
assert torch.compile is compiler
stand_in = worker.loading.quantization.bitsandbytes_offline._uncompiled
assert stand_in(len) is len and stand_in(len, dynamic=True) is len and stand_in(dynamic=True)(len) is len
print(sorted({"torch._inductor", "torch._dynamo", "kernels"} & sys.modules.keys()))
"""


def test_neither_torchs_compiler_nor_kernels_of_a_hub_are_imported_with_it() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
