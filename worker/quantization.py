"""4-bit and 8-bit weights with bitsandbytes: what to quantize, and how much of a model is.

bitsandbytes' 4-bit kernel for CPUs with AVX512-BF16 takes only layers whose outputs are a multiple of 32 and whose
inputs are a multiple of 64. Others are left unquantized, or, in a checkpoint that has them quantized, dequantized.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from .bitsandbytes_offline import bnb
from .config import Config

_OUT_MULTIPLE, _IN_MULTIPLE = 32, 64


@dataclass(frozen=True)
class QuantizationReport:
    """What became of a model's weights."""

    quantization: str
    """"nf4", "fp4", "int8" or "none"."""
    quantized_parameters: int
    total_parameters: int
    left_out: tuple[str, ...]
    """Names of layers that the 4-bit kernel of this CPU refuses."""

    @property
    def share(self) -> float:
        """Returns the quantized share of the parameters, 0 to 1."""
        return self.quantized_parameters / self.total_parameters


def cpu_has_4bit_kernel() -> bool:
    """Returns whether bitsandbytes runs its 4-bit kernel on this CPU; it computes in bfloat16."""
    return bool(bnb.functional.has_avx512bf16())


def fits_cpu_kernel(in_features: int, out_features: int) -> bool:
    """Returns whether the CPU's 4-bit kernel takes a layer."""
    return out_features % _OUT_MULTIPLE == 0 and in_features % _IN_MULTIPLE == 0


def quantization_config(
    config: Config, model_config: PreTrainedConfig, *, dtype: torch.dtype, uses_cpu_kernel: bool
) -> tuple[BitsAndBytesConfig | None, tuple[str, ...]]:
    """Returns what to give to from_pretrained, and the layers left out because their shape does not fit.

    None for a checkpoint that is quantized already, and for quantization "none".
    """
    if config.quantization == "none" or getattr(model_config, "quantization_config", None) is not None:
        return None, ()
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)
    kept = get_keys_to_not_convert(skeleton)
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept), ()
    awkward = [name for name in awkward_layers(skeleton) if name not in kept] if uses_cpu_kernel else []
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*kept, *awkward],
    )
    return four_bit, tuple(awkward)


def awkward_layers(model: nn.Module) -> list[str]:
    """Returns the linear layers of a model whose shapes the CPU's 4-bit kernel refuses."""
    return [name for name, module in model.named_modules() if _is_awkward(module)]


def _is_awkward(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return not fits_cpu_kernel(module.in_features, module.out_features)
    if isinstance(module, Conv1D):  # GPT-2's kind of linear layer keeps [in, out]
        return not fits_cpu_kernel(int(module.weight.shape[0]), int(module.weight.shape[1]))
    return False


def dequantize_awkward_layers(model: nn.Module, dtype: torch.dtype) -> tuple[str, ...]:
    """Replaces the 4-bit layers of a checkpoint that the CPU's kernel refuses by plain ones; returns their names."""
    names = [name for name in awkward_layers(model) if isinstance(model.get_submodule(name), bnb.nn.Linear4bit)]
    for name in names:
        model.set_submodule(name, _plain(model.get_submodule(name), dtype))
    return tuple(names)


def _plain(layer: Any, dtype: torch.dtype) -> nn.Linear:  # noqa: ANN401 - bitsandbytes ships no types
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    return plain


def set_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Sets the compute type of all 4-bit layers, and the type of all weights that are not quantized.

    A quantized checkpoint brings its own types for both, whatever from_pretrained is told.
    """
    for layer in _layers(model, bnb.nn.Linear4bit):
        layer.compute_dtype = dtype
        layer.compute_type_is_set = True
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not _is_quantized(parameter) and not _stays_float32(model, name):
            parameter.data = parameter.data.to(dtype)


def _layers(model: nn.Module, kind: type[Any]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def _is_quantized(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, bnb.nn.Params4bit | bnb.nn.Int8Params)


def _stays_float32(model: nn.Module, name: str) -> bool:
    """Whether the model's class says that these weights lose too much in 16 bit."""
    modules = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    modules |= {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    return any(module in name for module in modules)


def report(model: nn.Module, left_out: tuple[str, ...]) -> QuantizationReport:
    """Counts what is quantized in a loaded model."""
    four_bit, eight_bit = _layers(model, bnb.nn.Linear4bit), _layers(model, bnb.nn.Linear8bitLt)
    kinds = {layer.weight.quant_type for layer in four_bit} | {"int8" for _ in eight_bit}
    quantized = sum(layer.in_features * layer.out_features for layer in four_bit + eight_bit)
    others = sum(parameter.numel() for parameter in model.parameters() if not _is_quantized(parameter))
    return QuantizationReport("+".join(sorted(kinds)) or "none", quantized, quantized + others, left_out)
