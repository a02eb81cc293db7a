"""Reads a checkpoint with transformers: safetensors only, no code from its folder, quantized and placed as told.

Meanwhile glibc's malloc gives memory back to the system at once. By itself it raises the size from which a piece has
its own mapping whenever such a piece is freed (mallopt(3), M_MMAP_THRESHOLD). Loading frees a large piece and keeps a
small one for each weight: in one heap the small ones lie in the holes of the large ones, which then fit nowhere, and
the process ends with several times what it holds.
"""

import ctypes
import logging
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from ..domain.config import Config
from ..domain.refusal import Refusal
from . import cpu, placement
from .checkpoint.hub import Files, source
from .checkpoint.preflight import check_vocabulary
from .checkpoint_headers import compared_with, files_opened
from .one_gpu import gpu_for_all
from .quantization import four_bit, quantization
from .quantization.quantization import QuantizationReport

logger = logging.getLogger(__name__)

disable_progress_bar()

_GPU_ID = re.compile(r"\s*(\d+|(GPU|MIG)-.+)")
"""As in CUDA_VISIBLE_DEVICES: the first one that is not valid ends the list."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""
_LOADING = 1 << 20
"""Bytes: below any weight of a size that matters, and a large model gets by with some thousands of mappings."""
_SERVING = 32 << 20
"""The most that glibc raises it to; activations, which come and go with each step, are smaller."""


@contextmanager
def no_code_from_the_model() -> Iterator[None]:
    """Says why a model is refused that brings its own code; transformers advises to let the code run."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        reason = "it brings its own Python code, and textserve runs no code from model folders"
        raise ValueError(reason) from error


def read_config(config: Config) -> Any:  # noqa: ANN401 - each family has its own config class
    """Returns the model's config.json, without what it says of where the model was made.

    Raises:
        OSError: there is none.
        ValueError: transformers does not know such a model, or it needs code of its own.
    """
    with no_code_from_the_model():
        model_config = AutoConfig.from_pretrained(config.model, **source(config))
    _forget_other_places(model_config)
    return model_config


def _forget_other_places(model_config: Any) -> None:  # noqa: ANN401 - as above
    """Drops a way to attend that the model's maker had installed, and a pad token that no layer has a row for."""
    attention = model_config._attn_implementation  # noqa: SLF001 - there is no other name for it
    if attention not in {None, "eager", "sdpa"}:
        logger.warning("config.json: attn_implementation %s is ignored: textserve has its own ways", attention)
        model_config._attn_implementation = None  # noqa: SLF001 - the same
    for part in (model_config, model_config.get_text_config()):
        pad, size = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if isinstance(pad, int) and isinstance(size, int) and pad >= size:
            logger.warning("config.json: pad_token_id %d is ignored: it is beyond the vocabulary of %d", pad, size)
            part.pad_token_id = None


def read_tokenizer(config: Config, **settings: str) -> Any:  # noqa: ANN401 - transformers' tokenizers are untyped here
    """Returns the model's tokenizer; raises as read_config, and Refusal for one that was made from no file."""
    try:
        with no_code_from_the_model():
            tokenizer = AutoTokenizer.from_pretrained(config.model, **settings, **source(config))
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers library raises, and nobody else
            raise
        reason = f"tokenizer.json cannot be read by tokenizers {version('tokenizers')} ({error}): a newer one may"
        raise Refusal(reason) from error
    check_vocabulary(Files(config), tokenizer)
    return tokenizer


def compute_dtype(config: Config, code: cpu.CpuCode | None = None, *, runs_in_c: bool = False) -> torch.dtype:
    """Returns the type to compute in: what the config says, else the best of the device.

    That is bfloat16 where it has it, and on other GPUs float16: they would emulate bfloat16, number by number. A CPU
    has it where bitsandbytes' kernel does, and for models that the C code runs as a whole; others compute in float32.
    """
    if config.compute_dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.compute_dtype)
        return dtype
    if not runs_on_cpu(config):
        return torch.bfloat16 if all(map(_has_bfloat16, range(torch.cuda.device_count()))) else torch.float16
    has_bfloat16 = cpu.cpu_has_4bit_kernel() if code is None else code.level.has_bfloat16 or runs_in_c
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _has_bfloat16(gpu: int) -> bool:
    with torch.cuda.device(gpu):
        has_it: bool = torch.cuda.is_bf16_supported(including_emulation=False)
    return has_it


def check_gpus(config: Config, dealt: str | None) -> None:
    """Raises Refusal if GPUs were dealt to this process and torch sees none: the CPU would serve in their place.

    Args:
        config: where the model is to go.
        dealt: what CUDA_VISIBLE_DEVICES says; None if it is not set.
    """
    if dealt is None or not _GPU_ID.match(dealt) or torch.cuda.is_available():
        return
    if placement.is_cpu_alone(placement.parse_device_map(config.device_map)):
        return
    reason = (
        f"is built for CUDA {torch.version.cuda}: the driver is missing or older than that needs, or there is no such "
        "GPU (nvidia-smi tells)"
        if torch.version.cuda
        else "is a build for CPUs: install one for GPUs"
    )
    raise Refusal(
        f"GPU {dealt} was dealt to it, and torch sees none: torch {torch.__version__} {reason}; to serve on the CPU, "
        "give --device-map cpu"
    )


def runs_on_cpu(config: Config) -> bool:
    """Returns whether the model computes on the CPU."""
    return not torch.cuda.is_available() or placement.is_cpu_alone(placement.parse_device_map(config.device_map))


def load_weights(
    config: Config,
    model_config: Any,  # noqa: ANN401 - each family has its own config class
    code: cpu.CpuCode | None = None,
) -> tuple[Any, QuantizationReport, torch.dtype]:
    """Returns the model, ready for its first forward pass, what became of its weights, and the type it computes in.

    Raises:
        OSError: there are no safetensors.
        ValueError: the checkpoint is damaged, incomplete, not of the model that config.json describes, not finite, or
            quantized with something else than bitsandbytes; modules or devices are named that do not exist; or
            quantized weights do not fit on the devices that compute.
    """
    is_quantized = quantization.is_quantized(model_config)
    with no_code_from_the_model():
        skeleton = quantization.skeleton(model_config)
    left_out: tuple[str, ...] = ()
    uses_cpu_kernel = runs_on_cpu(config) and (code is not None or cpu.cpu_has_4bit_kernel())
    runs_in_c = code is not None and not code.obstacle_by_design(skeleton) and not _is_8bit(config, model_config)
    dtype = compute_dtype(config, code, runs_in_c=runs_in_c)
    settings = _placement(config, model_config, skeleton, dtype)
    if is_quantized and config.skip_modules:
        logger.warning("--skip-modules has no effect: the checkpoint is quantized already")
    if config.quantization != "none" and not is_quantized:
        settings["quantization_config"], left_out = quantization.quantization_config(
            config, skeleton, dtype=dtype, uses_cpu_kernel=uses_cpu_kernel
        )
    becomes_quantized = is_quantized or config.quantization != "none"
    four_bit.register()
    with gives_back_at_once(), files_opened(mapped=not becomes_quantized), compared_with(skeleton):
        model = _from_pretrained(config.model, config=model_config, dtype=dtype, **settings, **source(config))
        quantization.dequantize(model, quantization.layers_read_directly(model), dtype)
        if uses_cpu_kernel:
            left_out += quantization.dequantize_awkward_layers(model, dtype)
        quantization.set_compute_dtype(model, dtype)
        if code is not None and runs_in_c and code.obstacle(model):  # as when a checkpoint's head is quantized, too
            dtype = compute_dtype(config, code)
            quantization.set_compute_dtype(model, dtype)
    return model, quantization.report(model, left_out, was_to_be_quantized=becomes_quantized), dtype


def _is_8bit(config: Config, model_config: Any) -> bool:  # noqa: ANN401 - as above
    settings = getattr(model_config, "quantization_config", None)
    return config.quantization == "int8" if settings is None else bool(settings.get("load_in_8bit"))


def _placement(config: Config, model_config: Any, skeleton: torch.nn.Module, dtype: torch.dtype) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Returns what to tell from_pretrained about where the model goes."""
    device_map = placement.parse_device_map(config.device_map)
    if device_map == "auto" and not config.max_memory and (gpu := gpu_for_all(config, model_config, dtype)) is not None:
        everything: dict[str, placement.Device] = {"": gpu}
        device_map = everything
    memory = placement.parse_max_memory(config.max_memory)
    placement.check_accelerators(device_map, memory, torch.accelerator.device_count())
    if isinstance(device_map, dict):
        _check_modules(skeleton, device_map)
    offload = {"offload_folder": config.offload_folder} if config.offload_folder else {}
    return {"device_map": device_map, "max_memory": memory, **offload}


def _check_modules(skeleton: torch.nn.Module, device_map: dict[str, placement.Device]) -> None:
    names = {name for name, _ in skeleton.named_modules()} | {name for name, _ in skeleton.named_parameters()}
    if unknown := sorted(device_map.keys() - names):
        raise ValueError(f"--device-map names {unknown[0]}, and the model has no such module")
    homeless = [name for name, _ in skeleton.named_parameters() if not _covers(device_map, name)]
    if homeless:
        raise ValueError(f"--device-map gives no device for {len(homeless)} weights, such as {homeless[0]}")


def _covers(device_map: dict[str, placement.Device], name: str) -> bool:
    return any(not module or name == module or name.startswith(module + ".") for module in device_map)


def _from_pretrained(name: str, **settings: Any) -> Any:  # noqa: ANN401 - passed through
    """Returns a model, and raises ValueError for what of transformers' errors a restart would not mend."""
    try:
        with no_code_from_the_model():
            loaded: Any = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **settings)
    except torch.OutOfMemoryError:  # a RuntimeError that a restart may mend
        raise
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"its weights cannot be loaded: {error}") from error
    except ValueError as error:
        if reason := _placement_problem(str(error)):
            raise ValueError(reason) from error
        raise
    return loaded.eval()


def _placement_problem(error: str) -> str:
    """Returns in our flags' words what transformers says of devices; empty if it speaks of something else."""
    if "dispatched on the CPU or the disk" in error:
        return (
            "quantized weights cannot be offloaded, and not all of them go where they would be computed with: change "
            "--device-map or --max-memory, take more memory, or give --quantization none"
        )
    if "offload_folder" in error:
        return "weights of this model are converted when they are offloaded to disk: give --offload-folder"
    return ""


@contextmanager
def gives_back_at_once() -> Iterator[None]:
    """Within this, every piece of a mebibyte or more goes back to the system when it is freed.

    After it malloc is as glibc's defaults become once something large was freed. Without glibc nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_THRESHOLD, _LOADING)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _SERVING)
        mallopt(_TRIM_THRESHOLD, 2 * _SERVING)
