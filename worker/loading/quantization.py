"""What bitsandbytes quantizes of a model, and what it is told to leave alone.

bitsandbytes' 4-bit kernel for CPUs with AVX512-BF16 takes only layers whose outputs are a multiple of 32 and whose
inputs are a multiple of 64. Others are left unquantized.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from ..domain.config import Config
from ..domain.refusal import Refusal

_OUT_MULTIPLE, _IN_MULTIPLE = 32, 64
_READ_DIRECTLY = {"mamba": ("dt_proj",), "longcat_flash": ("classifier",)}
"""By type of model, the linear layers that it does not call: it multiplies with their weights itself, as they are."""


def is_quantized(model_config: Any) -> bool:  # noqa: ANN401 - each family has its own config class
    """Returns whether a checkpoint is quantized, with bitsandbytes.

    Raises Refusal if it is quantized with something else.
    """
    settings = getattr(model_config, "quantization_config", None)
    if settings is None:
        settings = getattr(model_config, "compression_config", None)  # where compressed-tensors once put it
    if settings is None:
        return False
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return True
    method = settings.get("quant_method", "an unnamed method")
    raise Refusal(
        f"its checkpoint is quantized with {method}; textserve serves checkpoints that are not quantized, or quantized "
        "with bitsandbytes to 4 or 8 bit"
    )


def skeleton(model_config: Any) -> nn.Module:  # noqa: ANN401 - each family has its own config class
    """Returns the model without any weights."""
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)
    return model


def fits_cpu_kernel(in_features: int, out_features: int) -> bool:
    """Returns whether the CPU's 4-bit kernel takes a layer."""
    return out_features % _OUT_MULTIPLE == 0 and in_features % _IN_MULTIPLE == 0


def quantization_config(
    config: Config,
    model: Any,  # noqa: ANN401 - transformers models share no useful static type
    *,
    dtype: torch.dtype,
    uses_cpu_kernel: bool,
) -> tuple[BitsAndBytesConfig, tuple[str, ...]]:
    """Returns what to give to from_pretrained for a model like this, and the layers whose shape the kernel refuses.

    Raises ValueError if the config names modules to skip that the model does not have.
    """
    _check_skipped(model, config.skip_modules)
    kept = [*get_keys_to_not_convert(model), *layers_read_directly(model), *config.skip_modules]
    if config.quantization == "int8":
        return (
            BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept, llm_int8_threshold=config.int8_threshold),
            (),
        )
    awkward = [name for name in awkward_layers(model) if should_convert_module(name, kept)] if uses_cpu_kernel else []
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*kept, *awkward],
    )
    return four_bit, tuple(awkward)


def _check_skipped(model: nn.Module, patterns: Sequence[str]) -> None:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for pattern in patterns:
        try:
            is_known = any(not should_convert_module(name, [pattern]) for name in linear)
        except re.error as error:
            raise ValueError(f"--skip-modules {pattern}: {error}") from error
        if not is_known:
            raise ValueError(f"--skip-modules {pattern}: no linear layer has such a name; there is {linear[0]}")


def layers_read_directly(model: Any) -> list[str]:  # noqa: ANN401 - as above
    """Returns the linear layers that cannot be quantized because the model's own code reads their weights."""
    names = _READ_DIRECTLY.get(model.config.get_text_config().model_type, ())
    return [name for name, _ in model.named_modules() if name.rpartition(".")[2] in names]


def awkward_layers(model: nn.Module) -> list[str]:
    """Returns the linear layers of a model whose shapes the CPU's 4-bit kernel refuses."""
    return [name for name, module in model.named_modules() if _is_awkward(module)]


def _is_awkward(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return not fits_cpu_kernel(module.in_features, module.out_features)
    if isinstance(module, Conv1D):  # GPT-2's kind of linear layer keeps [in, out]
        return not fits_cpu_kernel(int(module.weight.shape[0]), int(module.weight.shape[1]))
    return False
