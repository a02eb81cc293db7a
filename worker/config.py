"""The worker's settings: one frozen value, built once by the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Quantization = Literal["nf4", "fp4", "int8", "none"]
QUANTIZATIONS: tuple[Quantization, ...] = ("nf4", "fp4", "int8", "none")

TUTOR = Path(__file__).parent / "models" / "tutor"
"""The bundled model."""


@dataclass(frozen=True)
class Config:
    """Settings of one worker process."""

    model: str = str(TUTOR)
    """Folder of a transformers model, or its name on the Hugging Face hub."""
    name: str = ""
    """Name under which the model is served; empty: the folder's last part, or the hub name."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: the default branch."""
    quantization: Quantization = "nf4"
    """How to quantize a checkpoint that is not quantized: NF4 or FP4 (4 bit), LLM.int8, or none."""
    double_quantization: bool = True
    """Whether the scales of 4-bit blocks are quantized, too."""
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of activations and unquantized weights; auto: bfloat16 where the device computes in it, else float32."""
    device_map: str = "auto"
    """How accelerate places the model on devices."""
    listen: str = "127.0.0.1:0"
    """Address to serve: HOST:PORT, or unix:PATH."""
    threads: int = 0
    """Compute threads on a CPU; 0: torch's default."""
    max_rows: int = 32
    """Most sequences that run at once; fewer if the memory budget is small."""
    memory_gib: float = 0.0
    """Memory for keys and values, in GiB; 0: 80 % of what is free on a GPU after loading, 25 % of what is free on
    a CPU, and never more than max_rows need."""
    chunk_tokens: int = 256
    """Most prompt tokens read in one step while rows are running."""
    exit_with_stdin: bool = False
    """Ends the process at once when standard input ends: the life line to a supervising process."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level to log on standard error."""
    drain_s: float = 30.0
    """How long a draining worker waits for its running sequences, in seconds."""
