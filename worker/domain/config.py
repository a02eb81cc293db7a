"""The worker's settings: one frozen value, built once by the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Quantization = Literal["nf4", "fp4", "int8", "none"]
QUANTIZATIONS: tuple[Quantization, ...] = ("nf4", "fp4", "int8", "none")
Activations = Literal["auto", "exact", "int16", "int8"]

LEAST_CONTEXT = 16
"""Tokens: with fewer, a prompt and its answer have hardly any room."""

TUTOR = Path(__file__).parents[1] / "models" / "tutor"
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
    int8_threshold: float = 6.0
    """Magnitude from which on LLM.int8 computes a column of a layer's input in 16 bit, for the whole batch if one row
    reaches it. 0: never; then rows do not depend on each other."""
    skip_modules: tuple[str, ...] = ()
    """Linear layers that are not quantized, beside the head: a module's name, the end of a name, or a regular
    expression for its beginning, as transformers' `llm_int8_skip_modules`. Of no effect on a quantized checkpoint."""
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of activations and unquantized weights; auto: bfloat16 where the device computes in it, else
    float16 on a GPU, float32 on a CPU."""
    cpu_level: str = "auto"
    """What is made use of in a CPU: auto, the most that it can do, or avx512bf16, avx512, avx2, neon or generic, if it
    can do that. Compute type and arithmetic follow, so that it computes as others do that can do no more."""
    activations: Activations = "auto"
    """What 4-bit layers multiply with on a CPU: activations in bfloat16 (exact), or rounded in blocks of 64 to int16,
    which is nearer to float32, or to int8, which is inexact. auto: exact or int16, what is faster."""
    device_map: str = "auto"
    """How accelerate places the model on devices: auto, balanced, balanced_low_0, sequential, a device such as cpu or
    cuda:0, or a JSON object that maps modules to GPU numbers, "cpu" or "disk"."""
    max_memory: str = ""
    """Most memory for weights on each device, of which a strategy of device_map makes use, such as
    "0=20GiB,cpu=60GiB"; empty: what is free."""
    offload_folder: str = ""
    """Folder for weights that are offloaded to disk in another form than their checkpoint's."""
    context_length: int = 0
    """Most tokens of a sequence, prompt and output together, at least 16; 0: the model's own limit."""
    listen: str = "127.0.0.1:0"
    """Address to serve: HOST:PORT, or unix:PATH."""
    threads: int = 0
    """Compute threads on a CPU; 0: one for each core, but no more than the CPUs that this process may keep busy."""
    max_rows: int = 32
    """Most sequences that run at once; fewer if the memory budget is small."""
    memory_gib: float = 0.0
    """Memory for keys and values, in GiB; 0: 90 % of what a GPU has left beside weights, workspace, graphs and reserve,
    25 % of what is free on a CPU, and never more than max_rows need."""
    memory_share: float = 0.0
    """The same as a share of it, 0 to 1; 0: the defaults. Not beside memory_gib."""
    workers_on_gpu: int = 1
    """Workers that share this one's GPU: each takes its part of the memory."""
    cuda_graphs: bool = True
    """Whether decode steps on a GPU are captured in CUDA graphs, with kernels of our own, or run by transformers."""
    chunk_tokens: int = 256
    """Most prompt tokens read in one step while rows are running."""
    exit_with_stdin: bool = False
    """Ends the process at once when standard input ends: the life line to a supervising process."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level to log on standard error."""
    drain_s: float = 30.0
    """How long a draining worker waits for its running sequences, in seconds."""
